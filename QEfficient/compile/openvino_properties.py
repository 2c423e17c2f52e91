"""The properties of OpenVINO that a package may bring along.

They say how to compute. What says where to write or read, what to load or how much of the machine to take, such as
``CACHE_DIR``, ``DEVICE_PROPERTIES`` or ``NUM_STREAMS``, is up to whoever opens the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from QEfficient.contract import Range
from QEfficient.errors import OptionError
from QEfficient.store.records import check_options

CachePrecision = Literal["u8", "u4", "u3", "bf16", "f16", "f32"]
GroupSize = Annotated[int, Range(0, 2**31 - 1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageProperties:
    """Names, types and ranges; the defaults are the plugin's."""

    PERFORMANCE_HINT: Literal["LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT"] = "LATENCY"
    EXECUTION_MODE_HINT: Literal["PERFORMANCE", "ACCURACY"] = "PERFORMANCE"
    INFERENCE_PRECISION_HINT: Literal["f32", "bf16", "f16", "dynamic"] = "f32"
    KV_CACHE_PRECISION: CachePrecision = "u8"
    KEY_CACHE_PRECISION: CachePrecision = "u8"
    VALUE_CACHE_PRECISION: CachePrecision = "u8"
    KEY_CACHE_GROUP_SIZE: GroupSize = 0
    VALUE_CACHE_GROUP_SIZE: GroupSize = 0
    DYNAMIC_QUANTIZATION_GROUP_SIZE: GroupSize = 32
    CPU_DENORMALS_OPTIMIZATION: bool = False
    CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE: Annotated[float, Range(0, 1)] = 1.0


def check_storable(properties: Mapping[str, Any]) -> None:
    """Check the ``compiler_options`` of ``compile``, which the package will bring along.

    Raises:
        OptionError: one is about the machine, or has a wrong value.
    """
    known = [item.name for item in fields(PackageProperties)]
    if others := [name for name in properties if name not in known]:
        raise OptionError(
            f"compiler_options: '{others[0]}' is not a property that a package may contain; those are "
            f"{', '.join(known)}. Pass it when the package is opened: from_package(path, compiler_options={{...}})."
        )
    check_options(PackageProperties, properties, "compiler_options")
