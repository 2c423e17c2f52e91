"""Information on a device: from ``qaicrt.Util`` as objects, from ``qaic-util`` as text or JSON."""

# ruff: noqa: N815 - the SDK's names

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from QEfficient.simulator.runtime.devices import DEVICES, machine
from QEfficient.simulator.versions import DEFAULT_VERSION

SKUS = (
    "Invalid",
    "M.2",
    "PCIe",
    "PCIe Pro",
    "PCIe Lite",
    "PCIe Ultra",
    "Auto",
    "PCIe Ultra Plus",
    "PCIe 080",
    "PCIe Ultra 080",
)
_SOCS_PER_BOARD = 4


class QDevStatus(IntEnum):
    """Whether a device can be used."""

    QDS_ERROR = 0
    QDS_READY = 1
    QDS_INITIALIZING = 2


@dataclass(frozen=True, kw_only=True)
class QResourceInfo:
    """Totals and what is free; memory in MB."""

    dramTotal: int
    dramFree: int
    nspTotal: int
    nspFree: int
    vcTotal: int = 16
    vcFree: int = 16
    mcidTotal: int = 3072
    mcidFree: int = 3072
    semTotal: int = 32
    semFree: int = 32
    pcTotal: int = 16
    pcReserved: int = 0


@dataclass(frozen=True, kw_only=True)
class QPerformanceInfo:
    """Clocks in Hz."""

    nspFrequencyHz: int = 595_200_000
    ddrFrequencyHz: int = 2_133_000_000


@dataclass(frozen=True, kw_only=True)
class QDevData:
    """The part of a device's description that its firmware reports."""

    fwQCImageVersionString: str
    fwImageVariantString: str
    resourceInfo: QResourceInfo
    skuType: int


@dataclass(frozen=True, kw_only=True)
class QDevInfo:
    """A device."""

    qid: int
    name: str
    devStatus: QDevStatus
    devData: QDevData = field(repr=False)


_STATUSES = {
    "Ready": QDevStatus.QDS_READY,
    "Error": QDevStatus.QDS_ERROR,
    "Initializing": QDevStatus.QDS_INITIALIZING,
}


def describe(device_id: int) -> QDevInfo:
    """Current information on one device, as seen by this process."""
    present, used = machine(), DEVICES.usage(device_id)
    resources = QResourceInfo(
        dramTotal=present.dram_mb,
        dramFree=present.dram_mb - -(-used.num_bytes // 2**20),
        nspTotal=present.num_cores,
        nspFree=present.num_cores - used.num_cores,
    )
    data = QDevData(
        fwQCImageVersionString=f"simulator-{DEFAULT_VERSION}",
        fwImageVariantString=present.variant,
        resourceInfo=resources,
        skuType=SKUS.index(present.sku) if present.sku in SKUS else 0,
    )
    return QDevInfo(qid=device_id, name=f"sim{device_id}", devStatus=_STATUSES[present.status], devData=data)


def fields_of(device_id: int) -> dict[str, Any]:
    """Output of ``qaic-util -q``, in its order. A device that is not ready has only the first part."""
    present, device = machine(), describe(device_id)
    resources = device.devData.resourceInfo
    said: dict[str, Any] = {
        "Status": present.status,
        "PCI Address": f"0000:{device_id + 1:02x}:00.0",
        "PCI Info": "Processing accelerators Qualcomm AIC100 (simulated)",
        "Max Link Speed": "16GT/s",
        "Max Link Width": "x8",
        "Current Link Speed": "16GT/s",
        "Current Link Width": "x8",
        "Dev Link": device.name,
    }
    if present.status != "Ready":
        return said
    version = device.devData.fwQCImageVersionString
    return said | {
        "HW Version": "2.0.0.0",
        "HW Serial": f"0x{device_id:08x}",
        "FW Version": DEFAULT_VERSION,
        "FW QC_IMAGE_VERSION": version,
        "FW OEM_IMAGE_VERSION": version,
        "FW IMAGE_VARIANT": present.variant,
        "NSP Version": DEFAULT_VERSION,
        "NSP QC_IMAGE_VERSION": version,
        "NSP OEM_IMAGE_VERSION": version,
        "NSP IMAGE_VARIANT": present.variant,
        "Dram Total": f"{resources.dramTotal} MB",
        "Dram Free": f"{resources.dramFree} MB",
        "Dram Fragmentation": "0.00%",
        "Vc Total": resources.vcTotal,
        "Vc Free": resources.vcFree,
        "Pc Total": resources.pcTotal,
        "Pc Reserved": resources.pcReserved,
        "Nsp Total": resources.nspTotal,
        "Nsp Free": resources.nspFree,
        "MCID Total": resources.mcidTotal,
        "MCID Free": resources.mcidFree,
        "Semaphore Total": resources.semTotal,
        "Semaphore Free": resources.semFree,
        "Networks Active": DEVICES.usage(device_id).num_programs,
        "NSP Frequency(Mhz)": "595.20",
        "DDR Frequency(Mhz)": "2133.00",
        "Sku Type": present.sku,
        "Board serial": f"SIM{device_id // _SOCS_PER_BOARD:04d}",
        "Device Capabilities": "HybridBoot+ MDP+",
    }
