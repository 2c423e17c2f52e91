"""Sizes that a config gives, bounded before anything is made of them: by what models have, and by the weights' bytes.

Names are those of transformers' configs. Layers and widths are bounded; lengths, positions and vocabularies are not:
they cost nothing as long as no weight is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from QEfficient.errors import CorruptCheckpoint

MAX_LAYERS = 1024
MAX_WIDTH = 2**20
"""Elements along one axis of a weight: widths, heads, experts, labels."""
_FEW_LAYERS, _SMALL_WIDTH = 128, 2**16
"""Cost little, and are allowed with any weights: layers may share them, and a part of a config may be unused."""

_LAYERS = re.compile(r"(\w+_)?(layers?|blocks?|depths?|stages?|stacks?|cycles)(_per_\w+)?|num_\w*(layers|blocks)\w*")
_WIDTHS = re.compile(
    r"(\w+_)?(size|dims?|d_model|d_ff|dff|n_embd|width|channels?|ranks?|heads?|inner|experts?|labels|buckets|groups?|"
    r"states?|queries|filters|bins|hidden|features|convs)(_\w+)?|(num|n|d|dim)_\w+"
)
_LENGTHS = re.compile(
    r"vocab|position|token|length|seq|ctx|context|window|chunk|pixel|frame|sampl|theta|_base|rate|image_size|_ids?\b|"
    r"_index|max_|min_"
)
_LABELS = ("id2label", "label2id")  # names of labels are anybody's


def check_limits(config: Mapping[str, Any], source: Path) -> None:
    """Check the sizes in a config, and in those inside it, whatever weights belong to them.

    Args:
        config: as it is in the file.
        source: the file.

    Raises:
        CorruptCheckpoint: there are more than 1024 layers, or something is wider than 2**20.
    """
    _check(config, source, MAX_LAYERS, MAX_WIDTH, "no model has more")


def check_fits(config: Mapping[str, Any], source: Path, num_tensors: int, num_bytes: int) -> None:
    """Check them against the weights: a layer has at least one tensor, and a width a weight that is as long.

    Args:
        config: as it is in the file.
        source: the file.
        num_tensors: of the checkpoint.
        num_bytes: of all of them.

    Raises:
        CorruptCheckpoint: the weights are too few or too small for a size.
    """
    per_byte = 8  # a weight has at least a bit
    max_layers, max_width = max(_FEW_LAYERS, num_tensors), max(_SMALL_WIDTH, per_byte * num_bytes)
    _check(
        config,
        source,
        max_layers,
        max_width,
        f"the weights, {num_tensors:,} tensors of {num_bytes:,} bytes, have no more",
    )


def _check(config: Mapping[str, Any], source: Path, max_layers: int, max_width: int, who: str) -> None:
    for name, value in _sizes(config):
        is_layers = _LAYERS.fullmatch(name) is not None
        is_width = not is_layers and _WIDTHS.fullmatch(name) is not None and not _LENGTHS.search(name)
        most = max_layers if is_layers else max_width
        if (is_layers or is_width) and value > most:
            raise CorruptCheckpoint(
                f"{source}: {name} is {_shortened(value)}, expected at most {most:,}: {who}. The config is damaged, or "
                "that of another model: download the checkpoint again."
            )


def _shortened(value: float) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:21]}..."


def _sizes(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and values of all numbers, in lists and in configs inside of configs too."""
    pending: list[tuple[str, Any]] = [(str(name), value) for name, value in config.items()]
    while pending:
        name, value = pending.pop()
        if isinstance(value, Mapping) and name not in _LABELS:
            pending += [(str(inner), item) for inner, item in value.items()]
        elif isinstance(value, list):
            pending += [(name, item) for item in value]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value
