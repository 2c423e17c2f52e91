"""The cards of a simulated machine, and their use.

Environment variables, read when a device is first asked for in a process (and by ``qaic-util`` at every call):

    QEFF_SIM_DEVICES   how many devices (QIDs 0 to n−1); 4, one Ultra card
    QEFF_SIM_CORES     cores of each device; 16 (a Standard card has 14)
    QEFF_SIM_DRAM_MB   memory of each device that programs can use, in MiB; 30720
    QEFF_SIM_SKU       what ``qaic-util`` calls the card; "PCIe Ultra"
    QEFF_SIM_VARIANT   the firmware's image variant; "AIC100" ("AIC200" makes drivers compile for ai200)
    QEFF_SIM_STATUS    "Ready", "Error" or "Initializing", for all devices
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from QEfficient.errors import OptionError

MAX_CORES = 16
_STATUSES = ("Initializing", "Ready", "Error")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """The simulated machine, as the environment describes it."""

    num_devices: int = 4
    num_cores: int = MAX_CORES
    dram_mb: int = 30 * 1024
    sku: str = "PCIe Ultra"
    variant: str = "AIC100"
    status: str = "Ready"


def machine() -> Machine:
    """Read the environment.

    Raises:
        OptionError: a variable is no number, or out of range.
    """
    configured = Machine(
        num_devices=_number("QEFF_SIM_DEVICES", 4, 0, 128),
        num_cores=_number("QEFF_SIM_CORES", MAX_CORES, 1, MAX_CORES),
        dram_mb=_number("QEFF_SIM_DRAM_MB", 30 * 1024, 1, 1 << 30),
        sku=os.environ.get("QEFF_SIM_SKU", "PCIe Ultra"),
        variant=os.environ.get("QEFF_SIM_VARIANT", "AIC100"),
        status=os.environ.get("QEFF_SIM_STATUS", "Ready"),
    )
    if configured.status not in _STATUSES:
        raise OptionError(f"QEFF_SIM_STATUS is {configured.status!r}; expected one of {', '.join(_STATUSES)}")
    return configured


def _number(variable: str, default: int, lowest: int, highest: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal() or len(text) > 18 or not lowest <= int(text) <= highest:
        raise OptionError(f"{variable} is {text!r}; expected a number from {lowest} to {highest}")
    return int(text)


@dataclass(slots=True)
class Usage:
    """What activated programs use of one device."""

    num_cores: int = 0
    num_bytes: int = 0
    num_programs: int = 0


class Devices:
    """Gives cores and memory to programs; one object per process, as one driver serves a machine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._usage: dict[int, Usage] = {}

    def usage(self, device_id: int) -> Usage:
        """Use of a device."""
        return self._usage.setdefault(device_id, Usage())

    def take(self, device_ids: tuple[int, ...], num_cores: int, num_bytes: int) -> str:
        """Reserve on all devices or on none; returns the reason of a refusal, else an empty string."""
        present = machine()
        with self._lock:
            for device_id in device_ids:
                reason = self._refusal(present, device_id, num_cores, num_bytes)
                if reason:
                    return reason
            for device_id in device_ids:
                self._change(device_id, num_cores, num_bytes, 1)
        return ""

    def give_back(self, device_ids: tuple[int, ...], num_cores: int, num_bytes: int) -> None:
        """Undo :meth:`take`."""
        with self._lock:
            for device_id in device_ids:
                self._change(device_id, -num_cores, -num_bytes, -1)

    def _refusal(self, present: Machine, device_id: int, num_cores: int, num_bytes: int) -> str:
        used = self.usage(device_id)
        free_cores = present.num_cores - used.num_cores
        if num_cores > free_cores:
            return f"NSP resource exhausted on QID {device_id}: the program needs {num_cores}, {free_cores} are free"
        free = present.dram_mb * 2**20 - used.num_bytes
        if num_bytes > free:
            return f"Memory resource exhausted on QID {device_id}: the program needs {num_bytes} bytes, {free} are free"
        return ""

    def _change(self, device_id: int, num_cores: int, num_bytes: int, num_programs: int) -> None:
        used = self.usage(device_id)
        used.num_cores += num_cores
        used.num_bytes += num_bytes
        used.num_programs += num_programs


DEVICES = Devices()
