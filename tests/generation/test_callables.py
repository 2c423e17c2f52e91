"""A caller's functions get arrays, or tensors where they are torch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import MinLengthLogitsProcessor, TextStreamer

from QEfficient.errors import OptionError
from QEfficient.generation.logits.callables import UserCriterion, UserProcessor, as_asked, listed, takes_tensors
from QEfficient.generation.logits.history import History


def plain(input_ids: Any, scores: Any) -> Any:
    return scores


def annotated(input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
    return scores + 1


class Annotated:
    def __call__(self, input_ids: Any, scores: torch.Tensor) -> Any:
        return scores

    def method(self, input_ids: torch.Tensor, scores: Any) -> Any:
        return scores


@pytest.mark.parametrize(
    ("called", "expected"),
    [
        (plain, False),
        (lambda ids, scores: scores, False),
        (np.add, False),
        (annotated, True),
        (Annotated(), True),
        (Annotated().method, True),
        (MinLengthLogitsProcessor(3, 2), True),
        (TextStreamer(None), True),  # type: ignore[arg-type]
        (torch.nn.Identity(), True),
    ],
    ids=lambda value: value if isinstance(value, bool) else type(value).__name__,
)
def test_who_takes_tensors(called: Any, expected: bool) -> None:
    assert takes_tensors(called) is expected
    kind = torch.Tensor if expected else np.ndarray
    assert isinstance(as_asked(np.zeros((1, 3)), called), kind)


def test_without_torch_all_get_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("QEfficient.generation.logits.callables.find_spec", lambda name: None)
    assert isinstance(as_asked(np.zeros(3), annotated), np.ndarray)


def test_a_processor_sees_one_request_at_a_time() -> None:
    seen: list[Any] = []

    def note(input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        seen.append((input_ids.tolist(), input_ids.dtype, scores.copy()))
        scores += len(seen)
        return scores

    scores = np.arange(6, dtype=np.float32).reshape(2, 3)
    changed = UserProcessor(note)(scores.copy(), [History([4, 5]), History([6])])
    assert [each[:2] for each in seen] == [([[4, 5]], np.int64), ([[6]], np.int64)]
    np.testing.assert_array_equal(changed, scores + np.array([[1], [2]]))


@pytest.mark.parametrize("said", [True, np.True_, np.array([1]), torch.tensor([True])], ids=str)
def test_a_criterion_says_one_thing(said: Any) -> None:
    assert UserCriterion(lambda ids, scores: said)([1]) is True


@pytest.mark.parametrize("said", [None, 0.5, np.array([True, False]), "yes"], ids=str)
def test_a_criterion_that_says_something_else(said: Any) -> None:
    with pytest.raises(OptionError, match="expected one True or False"):
        UserCriterion(lambda ids, scores: said)([1])


def test_one_function_or_a_list_of_them() -> None:
    assert (listed("x", None), listed("x", plain), listed("x", (plain, annotated))) == ([], [plain], [plain, annotated])
    with pytest.raises(OptionError, match="x must be a function or a list of them, got 3"):
        listed("x", [plain, 3])
