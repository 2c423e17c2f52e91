"""How chunks become the runs of a text-to-text model; the model is one that writes down what it was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from QEfficient.errors import CapacityError, OptionError
from QEfficient.generation.sessions.readers import TextReader
from QEfficient.generation.sessions.seq2seq import Seq2SeqSession
from QEfficient.generation.sessions.session import Chunk, SessionInfo

VOCAB = 11


class Recorder:
    """Predicts the token of each row, plus one."""

    name = "recorder"

    def __init__(self, *, takes_rows: bool = True, encoder_rows: int = 1, is_static: bool = False):
        names = {"input_ids", "position_ids", "encoder_lens", "encoder_input_ids"}
        self.inputs = frozenset(names | ({"batch_index"} if takes_rows else set()))
        self.outputs = frozenset({"logits"})
        shapes = [{"encoder_input_ids": shape} for shape in ((encoder_rows, 6), (3, 1))]
        self.shapes: Sequence[Mapping[str, tuple[int, ...]]] | None = shapes if is_static else None
        self.runs: list[dict[str, np.ndarray]] = []

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        self.runs.append({name: array.copy() for name, array in inputs.items()})
        return {"logits": np.eye(VOCAB, dtype=np.float32)[(inputs["input_ids"][:, :1] + 1) % VOCAB]}

    def close(self) -> None:
        self.runs.clear()


def session(runner: Recorder, side: str | None = "right") -> Seq2SeqSession:
    info = SessionInfo(num_slots=3, ctx_len=8, chunk_len=1, is_ragged=False, vocab_size=VOCAB)
    why_not_padded = "it counts" if side is None else None
    return Seq2SeqSession(runner, info, TextReader(6, 9, why_not_padded))


def begin(slot: int, token: int, *text: int) -> Chunk:
    return Chunk(slot, [token], 0, inputs={"encoder_input_ids": np.array(text)})


def test_texts_are_read_apart_from_answers_that_go_on() -> None:
    runner = Recorder()
    over = session(runner)
    over.step([begin(1, 2, 5, 6, 7)])
    logits = over.step([Chunk(1, [4], 1), begin(0, 2, 8)])
    assert logits.argmax(-1).tolist() == [5, 3]
    _, reads, goes_on = runner.runs
    assert reads["encoder_input_ids"].tolist() == [[8]]
    assert reads["encoder_lens"].tolist() == [[1]]
    assert reads["batch_index"].tolist() == [[0]]
    assert goes_on["encoder_input_ids"].shape == (1, 1)
    assert goes_on["encoder_lens"].tolist() == [[3]]
    assert goes_on["position_ids"].tolist() == [[1]]


def test_without_batch_index_every_row_is_in_every_run() -> None:
    runner = Recorder(takes_rows=False, encoder_rows=3, is_static=True)
    session(runner).step([begin(2, 2, 5, 6), begin(0, 2, 7)])
    (run,) = runner.runs
    assert run["encoder_input_ids"].tolist() == [[7, 0, 0, 0, 0, 0], [0] * 6, [5, 6, 0, 0, 0, 0]]
    assert run["position_ids"].tolist() == [[0], [-1], [0]]
    assert run["encoder_lens"].tolist() == [[1], [0], [2]]


def test_a_static_run_of_answers_has_all_its_rows_and_names_each_slot_once() -> None:
    runner = Recorder(encoder_rows=1, is_static=True)
    over = session(runner)
    over.step([begin(2, 2, 5), begin(1, 3, 6)])
    over.step([Chunk(2, [4], 1)])
    first, second, goes_on = runner.runs
    assert [run["batch_index"].tolist() for run in (first, second)] == [[[2]], [[1]]]
    assert goes_on["batch_index"].tolist() == [[2], [0], [1]]
    assert goes_on["position_ids"].tolist() == [[1], [-1], [-1]]


def test_texts_that_must_not_be_padded_run_with_those_of_their_length() -> None:
    runner = Recorder()
    session(runner, side=None).step([begin(0, 2, 5, 6), begin(1, 2, 5), begin(2, 2, 7, 8)])
    assert [run["encoder_input_ids"].tolist() for run in runner.runs] == [[[5]], [[5, 6], [7, 8]]]


@pytest.mark.parametrize(
    ("text", "side", "error", "says"),
    [
        ([], "right", CapacityError, "empty"),
        ([1] * 7, "right", CapacityError, "encoder_ctx_len=7"),
        ([9], "right", OptionError, "0 to 8"),
        ([1] * 5, None, CapacityError, "because it counts"),
    ],
)
def test_what_cannot_be_read(text: list[int], side: str | None, error: type[Exception], says: str) -> None:
    over = session(Recorder(encoder_rows=1, is_static=True), side)
    with pytest.raises(error, match=says):
        over.check(text, 3)
    session(Recorder(), side).check([1] * 6)
