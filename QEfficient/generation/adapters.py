"""Adapters of a compiled package: their names, and the files with matrices that are the graph's inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from QEfficient.contract import GraphRecord
from QEfficient.errors import CorruptArtifact

_MATRIX = re.compile(r"\.lora_[AB]\.weight$")
"""Names of inputs with an adapter's matrices."""
FOLDER = "adapters"
"""Of a package: a file for each adapter whose matrices the graph takes as inputs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterRecord:
    """An adapter of a package."""

    name: str
    digest: str
    """Of the adapter's files."""


def adapter_file(number: int) -> str:
    """The path in a package of an adapter's matrices; an adapter's name may be no file's."""
    return f"{FOLDER}/{number}.safetensors"


def write_adapter(path: Path, inputs: Mapping[str, np.ndarray]) -> None:
    """Write the inputs of an adapter."""
    path.parent.mkdir(exist_ok=True)
    save_file(dict(inputs), path)


def read_adapter(path: Path, graph: GraphRecord) -> dict[str, np.ndarray]:
    """The inputs of an adapter, float32.

    Raises:
        CorruptArtifact: the file is none, or does not fit the graph.
    """
    try:
        inputs = load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CorruptArtifact(f"{path} cannot be read: {error}. Compile again.") from error
    expected = {name: binding.shape for name, binding in graph.inputs.items() if _MATRIX.search(name)}
    shapes = {name: value.shape for name, value in inputs.items() if value.dtype == np.float32}
    if shapes != expected:
        name = min(name for name in {*shapes, *expected, *inputs} if shapes.get(name) != expected.get(name))
        raise CorruptArtifact(
            f"{path}: '{name}' has the shape {shapes.get(name)} in float32, the graph's is {expected.get(name)}. "
            "Compile again."
        )
    return inputs
