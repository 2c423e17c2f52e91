"""What reaches native code is checked first: a wrong input is an error that names it, and the package goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from faults.hostile import is_typed

from QEfficient import QEFFAutoModel, QEFFAutoModelForCausalLM, QEFFAutoModelForSequenceClassification
from QEfficient.errors import CapacityError, OptionError, QEffError
from QEfficient.generation.cloud_infer import QAICInferenceSession
from QEfficient.generation.package import from_package
from QEfficient.generation.sessions.session import Chunk
from QEfficient.generation.texts import EncodedText

pytestmark = pytest.mark.xdist_group("fault packages")
IDS = [5, 6, 7]
CPU: dict[str, Any] = {"target": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    """An open package of each kind of session."""
    tokenizer = tiny_models.tiny_tokenizer()
    decoder = QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama"), tokenizer=tokenizer)
    encoder = QEFFAutoModel(tiny_models.encoder(), tokenizer=tokenizer)
    classifier = QEFFAutoModelForSequenceClassification(tiny_models.classifier(2), tokenizer=tokenizer)
    packages = {
        "paged": from_package(decoder.compile(ctx_len=32, full_batch_size=2, **CPU)),
        "retained": from_package(decoder.compile(ctx_len=32, lowering="retained", **CPU)),
        "card": from_package(decoder.compile(target="cloud-ai-100-sim", ctx_len=32, prefill_seq_len=8)),
        "encoder": from_package(encoder.compile(seq_len=16, **CPU)),
        "classifier": from_package(classifier.compile(seq_len=16, **CPU)),
    }
    yield SimpleNamespace(**packages)
    for package in packages.values():
        package.close()


NO_IDS: dict[str, Any] = {
    "None": None, "a number": 5, "a text": "x", "bytes": b"x", "nested": [[5]], "floats": [5.5], "texts": ["x"],
    "nothing in it": [None], "bools": [True], "a scalar array": np.array(5), "an array of floats": np.array([5.5]),
    "an array of objects": np.array([5, None], object), "a table": np.array([[5]]), "a set": {1}, "an object": object(),
    "NaN": float("nan"), "a dict": {"a": 1}, "a tensor of floats": torch.tensor([1.5]),
}  # fmt: skip
NOT_THE_MODELS: dict[str, Any] = {
    "too large": [320],
    "far too large": [2**70],
    "negative": [-1],
    "the least": [-(2**63)],
}


@pytest.mark.parametrize("ids", [*NO_IDS.values(), *NOT_THE_MODELS.values()], ids=[*NO_IDS, *NOT_THE_MODELS])
@pytest.mark.parametrize("name", ["paged", "retained"])
def test_layer_outputs(opened: Any, name: str, ids: Any) -> None:
    with pytest.raises(OptionError):
        getattr(opened, name).layer_outputs(ids)
    with pytest.raises(OptionError):
        opened.encoder.session.run([ids])


@pytest.mark.parametrize("name", ["paged", "retained"])
@pytest.mark.parametrize("ids", [[], np.array([], np.int64), [5] * 32, [5] * 100])
def test_layer_outputs_of_a_length_that_does_not_fit(opened: Any, name: str, ids: Any) -> None:
    with pytest.raises(CapacityError):
        getattr(opened, name).layer_outputs(ids)


@pytest.mark.parametrize("name", ["paged", "retained"])
def test_layer_outputs_take_arrays(opened: Any, name: str) -> None:
    package = getattr(opened, name)
    expected = package.layer_outputs(IDS)
    for ids in (np.array(IDS), torch.tensor(IDS), tuple(IDS), np.array([5, 0, 6, 0, 7])[::2], np.array(IDS, np.int32)):
        for values, others in zip(package.layer_outputs(ids), expected, strict=True):
            np.testing.assert_array_equal(values, others)


CHUNKS: dict[str, Any] = {
    "no token": {"tokens": []},
    "a token too large": {"tokens": [5, 320]},
    "a negative token": {"tokens": [-1, 5]},
    "a token of no size": {"tokens": [2**70]},
    "floats": {"tokens": [5.5]},
    "nested tokens": {"tokens": [[5]]},
    "a negative start": {"start": -1},
    "a start beyond the context": {"start": 30},
    "a start far beyond": {"start": 10**9},
    "a slot that is not there": {"slot": 64},
    "a negative slot": {"slot": -1},
    "more logits than tokens": {"num_logits": 4},
    "negative logits": {"num_logits": -1},
}
BLOCKS: dict[str, Any] = {
    "no block": [], "a block that is not there": [64], "a negative block": [-1], "a huge one": [2**40],
    "a float": [0.5], "a text": ["x"],
}  # fmt: skip


@pytest.mark.parametrize("changes", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("name", ["paged", "retained", "card"])
def test_chunks(opened: Any, name: str, changes: dict[str, Any]) -> None:
    session = getattr(opened, name).engine.session
    chunk = replace(Chunk(0, IDS, 0, block_ids=[0]), **changes)
    with pytest.raises((CapacityError, OptionError)):
        session.step([chunk])
    assert session.step([]).shape == (0, 320)
    with pytest.raises(OptionError, match="once"):
        session.step([Chunk(0, IDS, 0, block_ids=[0])] * 2)
    if hasattr(session, "outputs"):
        with pytest.raises((CapacityError, OptionError)):
            session.outputs(["logits"], chunk)
    assert len(getattr(opened, name).generate([IDS], generation_len=2).generated_ids[0]) == 2


@pytest.mark.parametrize("block_ids", BLOCKS.values(), ids=BLOCKS)
def test_blocks(opened: Any, block_ids: Any) -> None:
    with pytest.raises((CapacityError, OptionError), match="block"):
        opened.paged.engine.session.step([Chunk(0, IDS, 0, block_ids=block_ids)])


@pytest.mark.parametrize("names", [["nowhere"], [""], ["logits", "x"]])
def test_outputs_that_are_not_there(opened: Any, names: list[str]) -> None:
    for name in ("paged", "retained", "card"):
        with pytest.raises(QEffError):
            getattr(opened, name).engine.session.outputs(names, Chunk(0, IDS, 0, block_ids=[0]))


def good_inputs() -> dict[str, Any]:
    return {"input_ids": np.array([IDS]), "position_ids": np.arange(3)[None], "batch_index": np.zeros((1, 1), np.int64)}


INPUTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nothing": lambda inputs: None,
    "a list": lambda inputs: [*inputs],
    "none of them": lambda inputs: {},
    "one too few": lambda inputs: {"input_ids": inputs["input_ids"]},
    "one too many": lambda inputs: inputs | {"x": np.zeros(1)},
    "names of numbers": lambda inputs: {1: np.zeros(1)},
    "int32": lambda inputs: inputs | {"input_ids": inputs["input_ids"].astype(np.int32)},
    "floats": lambda inputs: inputs | {"input_ids": inputs["input_ids"].astype(float)},
    "objects": lambda inputs: inputs | {"input_ids": inputs["input_ids"].astype(object)},
    "texts": lambda inputs: inputs | {"input_ids": np.array([["a"]])},
    "a nested list": lambda inputs: inputs | {"input_ids": [[5, 6, 7]]},
    "a tensor": lambda inputs: inputs | {"input_ids": torch.tensor([[5, 6, 7]])},
    "one axis": lambda inputs: inputs | {"input_ids": inputs["input_ids"][0]},
    "three axes": lambda inputs: inputs | {"input_ids": inputs["input_ids"][None]},
    "no axis": lambda inputs: inputs | {"input_ids": np.array(5)},
    "every other element": lambda inputs: inputs | {"input_ids": np.zeros((1, 6), np.int64)[:, ::2]},
}


@pytest.mark.parametrize("change", INPUTS.values(), ids=INPUTS)
def test_inputs_of_a_program(opened: Any, change: Callable[[dict[str, Any]], Any]) -> None:
    program = opened.retained.engine.session._program
    with pytest.raises(OptionError):
        program.run(change(good_inputs()))
    with pytest.raises(OptionError, match="no output 'x'"):
        program.run(good_inputs(), ["x"])
    with pytest.raises(OptionError, match="no output 'x'"):
        opened.card.engine.session._program.run({}, ["x"])
    assert program.run(good_inputs())["logits"].shape == (1, 1, 320)


NO_BUFFERS: list[Any] = [
    None,
    5,
    "x",
    b"x",
    [],
    [[5]],
    np.array(5),
    {1},
    range(3),
    object(),
    float("nan"),
    torch.ones(2),
]
NO_ARRAYS: list[Any] = [
    None, 5, "x", b"x", [[5], [5, 6]], [None], {1}, object(), np.array([["a"]]), torch.ones(1, 8, requires_grad=True),
    torch.ones(1, 8, dtype=torch.bfloat16), torch.ones(1, 8, device="meta"), np.zeros((1, 8), np.int32),
    np.zeros((8, 1)),
    np.zeros((1, 9), np.int64), np.zeros((1, 8), object), float("nan"),
]  # fmt: skip


@pytest.mark.parametrize("value", NO_BUFFERS, ids=range(len(NO_BUFFERS)))
def test_buffers_of_a_card(opened: Any, value: Any) -> None:
    session = opened.card.engine.session._program.session
    for call in (session.run, session.set_buffers):
        with pytest.raises(OptionError):
            call(value)
    assert is_typed(lambda: session.skip_buffers(value)) in (True, False)
    assert is_typed(lambda: session.reset_buffers(value)) in (True, False)
    if value.__hash__ is not None and not isinstance(value, str):  # of an unknown name, a warning is enough
        with pytest.raises(OptionError):
            session.set_buffers({value: np.zeros((1, 8), np.int64)})


@pytest.mark.parametrize("value", NO_ARRAYS, ids=range(len(NO_ARRAYS)))
def test_arrays_of_a_card(opened: Any, value: Any) -> None:
    session = opened.card.engine.session._program.session
    with pytest.raises(OptionError, match="input_ids"):
        session.set_buffers({"input_ids": value})
    assert len(opened.card.generate([IDS], generation_len=2).generated_ids[0]) == 2


def test_arrays_that_are_not_contiguous(opened: Any) -> None:
    """They are copied as they are read."""
    session = opened.card.engine.session._program.session
    array = np.arange(16)[None, ::2]
    session.set_buffers({"input_ids": array})
    content = session._contents[session.binding_index_map["input_ids"]]
    assert np.frombuffer(bytes(content), np.int64).tolist() == array[0].tolist()


@pytest.mark.parametrize("value", [None, 5, b"x", [], [[5]], {1}, object(), np.array([5]), "a\0b", "x" * 300])
def test_path_of_a_card_program(value: Any) -> None:
    with pytest.raises(QEffError):
        QAICInferenceSession(value)


@pytest.mark.parametrize("value", [[[5]], ["x"], [None], [-1], [2**70], [True], [0, 0], [], 5, "x", {0}, object()])
def test_devices(opened: Any, value: Any) -> None:
    with pytest.raises(OptionError, match="device_ids"):
        from_package(opened.card.path, value)


@pytest.mark.parametrize(
    "text",
    [
        EncodedText([5.5]),  # type: ignore[list-item]
        EncodedText(None),  # type: ignore[arg-type]
        EncodedText([5, 6], [0]),
        EncodedText([5], ["x"]),  # type: ignore[list-item]
        EncodedText(np.array([[5]])),  # type: ignore[arg-type]
    ],
)
def test_texts_of_an_encoder_session(opened: Any, text: Any) -> None:
    with pytest.raises(OptionError):
        opened.encoder.session.run([text])
    for texts in (None, 5, "x", b"x", object(), {1}):
        with pytest.raises(OptionError):
            opened.encoder.session.run(texts)


@pytest.mark.parametrize(
    "logits",
    [None, 5, "x", [[1.0, 2.0]], np.zeros(2), np.zeros((1, 3)), np.zeros((1, 2), int), np.zeros((1, 2), object)],
)
def test_scores(opened: Any, logits: Any) -> None:
    with pytest.raises(OptionError, match="logits"):
        opened.classifier.scores(logits)


@pytest.mark.parametrize("value", [None, 5, b"x", ["x"], "a\ud800"])
def test_texts_of_a_tokenizer(opened: Any, value: Any) -> None:
    tokenizer = opened.paged.tokenizer()
    for call in (tokenizer.encode, tokenizer.encode_text, lambda text: tokenizer.encode_text("x", text or 5)):
        with pytest.raises(OptionError):
            call(value)


@pytest.mark.parametrize("ids", [None, 5, "x", [5.5], ["x"], [None], [[5]], [-1], [2**32], [2**70], {1}, object()])
def test_ids_of_a_tokenizer(opened: Any, ids: Any) -> None:
    with pytest.raises(OptionError, match="ids"):
        opened.paged.tokenizer().decode(ids)
    assert opened.paged.tokenizer().decode([5, 6]) == opened.paged.tokenizer().decode(np.array([5, 6]))
