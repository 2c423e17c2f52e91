"""The systems that are measured, as data. Each is a module with ``prepare`` and ``Runner``, imported in a worker only.

``prepare(checkpoint, folder, **options)`` writes what the system loads, in its own way of exporting, into ``folder``.
``Runner(checkpoint, folder, num_threads=..., **options)`` loads it; ``answer(prompts, num_new_tokens)`` decodes
greedily, without stopping at an end token, and returns an :class:`benchmarks.answers.Answer`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from QEfficient.errors import OptionError, nearest

Weights = Literal["checkpoint", "int8", "int4"]


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """One way to run a checkpoint."""

    name: str
    distribution: str
    """What must be installed, as pip calls it."""
    module: str
    weights: Weights
    """Peers are compared with ours of the same weights."""
    bytes_per_weight: float
    """Memory when loaded, a little above what was measured; decides who can stay loaded together."""
    options: dict[str, Any] = field(default_factory=dict)
    is_ours: bool = False
    exports: bool = True
    """Whether it needs ``prepare``; else its module has none and the checkpoint is run as it is."""

    @property
    def version(self) -> str | None:
        """The installed version, or None."""
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return None


def _row(
    name: str, distribution: str, module: str, weights: Weights, bytes_per_weight: float, /, **options: Any
) -> System:
    """Options go to the module's ``prepare`` and ``Runner``."""
    return System(
        name=name,
        distribution=distribution,
        module=f"benchmarks.systems.{module}",
        weights=weights,
        bytes_per_weight=bytes_per_weight,
        options=options,
        is_ours=module == "ours",
        exports=module != "huggingface",
    )


SYSTEMS = {
    system.name: system
    for system in (
        _row("ours", "qefficient", "ours", "checkpoint", 6, weight_format=None),
        _row("ours-int8", "qefficient", "ours", "int8", 2.5, weight_format="int8"),
        _row("ours-int4", "qefficient", "ours", "int4", 2, weight_format="int4"),
        _row("hf-bf16", "transformers", "huggingface", "checkpoint", 2.5, dtype="bfloat16"),
        _row("hf-fp32", "transformers", "huggingface", "checkpoint", 4.5, dtype="float32"),
        _row("openvino-genai-int8", "openvino-genai", "openvino_genai", "int8", 2.5, weights="int8"),
        _row("openvino-genai-int4", "openvino-genai", "openvino_genai", "int4", 2, weights="int4"),
        _row("onnxruntime-genai-int8", "onnxruntime-genai", "onnxruntime_genai", "int8", 3, weights="int8"),
        _row("onnxruntime-genai-int4", "onnxruntime-genai", "onnxruntime_genai", "int4", 2.5, weights="int4"),
    )
}


def choose(names: Iterable[str]) -> list[System]:
    """Systems by name or pattern (``hf-*``), in the table's order.

    Raises:
        OptionError: nothing is called so.
    """
    chosen: set[str] = set()
    for name in names:
        found = fnmatch.filter(SYSTEMS, name)
        if not found:
            raise OptionError(f"There is no system '{name}'.{nearest(name, SYSTEMS)} Known: {', '.join(SYSTEMS)}.")
        chosen.update(found)
    return [system for system in SYSTEMS.values() if system.name in chosen]
