"""Encoders of media over programs with compiled shapes: what is padded to these, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from QEfficient.contract import FEATURES
from QEfficient.errors import CapacityError
from QEfficient.generation.media_encoder import FeatureCache, MediaEncoder, MediaEncoderRecord, MediaPartRecord

NAMES = ("pixel_values", "qformer_input_ids", "qformer_attention_mask")


class Program:
    """Takes images of 4 x 4 pixels, with texts of 6 or 12 tokens."""

    shapes: Sequence[Mapping[str, tuple[int, ...]]] = [
        {NAMES[0]: (1, 3, 4, 4), NAMES[1]: (1, length), NAMES[2]: (1, length)} for length in (12, 6)
    ]

    def __init__(self) -> None:
        self.runs: list[dict[str, np.ndarray]] = []

    def run(self, inputs: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
        self.runs.append(dict(inputs))
        return {FEATURES: np.ones((2, 3), np.float32)}


@pytest.fixture
def program() -> Program:
    return Program()


def encode(program: Any, num_tokens: int, side: int = 4) -> Any:
    part = MediaPartRecord(graph="vision", path="", inputs=NAMES, outputs=(FEATURES,))
    record = MediaEncoderRecord(modality="image", parts=(part,))

    def host() -> Any:
        raise AssertionError("nothing is computed on the host")

    ids = np.arange(1, num_tokens + 1)[None]
    batch = {NAMES[0]: np.zeros((1, 3, side, side), np.float32), NAMES[1]: ids, NAMES[2]: np.ones_like(ids)}
    return MediaEncoder(record, {"vision": program}, host, FeatureCache()).encode(batch)


@pytest.mark.parametrize(("num_tokens", "length"), [(4, 6), (6, 6), (7, 12)])
def test_a_text_with_a_mask_is_padded_to_the_least_length_that_takes_it(
    program: Program, num_tokens: int, length: int
) -> None:
    encode(program, num_tokens)
    (inputs,) = program.runs
    padding = [0] * (length - num_tokens)
    assert inputs[NAMES[1]].tolist() == [[*range(1, num_tokens + 1), *padding]]
    assert inputs[NAMES[2]].tolist() == [[1] * num_tokens + padding]


@pytest.mark.parametrize(("num_tokens", "side"), [(13, 4), (6, 8), (4, 8)])
def test_what_fits_into_no_shape_is_refused(program: Program, num_tokens: int, side: int) -> None:
    with pytest.raises(CapacityError, match="An image of this size gives the image encoder"):
        encode(program, num_tokens, side)
    assert not program.runs
