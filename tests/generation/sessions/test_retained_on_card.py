"""The engine over programs of simulated cards: answers are those of a reference in numpy, whatever else runs."""

from __future__ import annotations

import gc
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation.tiny_programs import CTX, VOCAB, answer, compiled, decoder, encoder, reference, weights

from QEfficient.contract import GraphRecord, OpenOptions
from QEfficient.errors import CapacityError, CorruptArtifact, LifecycleError, OptionError, TargetUnavailable
from QEfficient.generation.cloud_infer import QAICInferenceSession
from QEfficient.generation.engine import Engine
from QEfficient.generation.programs.program import Opening, Program
from QEfficient.generation.programs.qaic import CloudAI100Program, open_program
from QEfficient.generation.request import Request
from QEfficient.generation.sessions.encoder import EncoderSession, InputContract
from QEfficient.generation.sessions.retained import RetainedSession
from QEfficient.generation.sessions.session import Chunk, SessionInfo
from QEfficient.simulator.runtime.devices import DEVICES
from QEfficient.targets import TARGETS

pytestmark = pytest.mark.xdist_group("qaic")

PROMPTS = [[3, 5, 1, 9, 12, 7, 20], [2], [15, 4, 4, 8], [11, 23, 6, 6, 1], [19, 3], [7, 7, 7, 7, 7, 7, 7, 7, 7]]
BATCHED = {"full_batch_size": 4, "ctx_len": CTX}
PREFILL, DECODE = {"batch_size": 1, "seq_len": 4, **BATCHED}, {"batch_size": 3, "seq_len": 1, **BATCHED}


@pytest.fixture(autouse=True, scope="module")
def no_programs_of_others() -> None:
    """Models that other tests left give their cards back when they are collected."""
    gc.collect()


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable of the caller's reaches the cards, and no test leaves a program on them."""
    for name in [name for name in os.environ if name.startswith(("QEFF_SIM_", "QEFF_QAIC", "QEFF_DATA_PATH"))]:
        monkeypatch.delenv(name)
    yield
    assert [DEVICES.usage(qid).num_programs for qid in range(4)] == [0] * 4


@pytest.fixture(scope="module")
def root(qeff_home: Path) -> Path:
    find = TARGETS["cloud-ai-100-sim"].sdk_root
    assert find is not None
    return find()


Make = Callable[..., Path]


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Compiles a decoder for some shapes; equal ones once."""
    known: dict[str, Path] = {}

    def make(*shapes: Mapping[str, int], custom_io: Mapping[str, str] | None = None, **kind: bool) -> Path:
        key = repr((shapes, custom_io, kind))
        if key not in known:
            model = decoder(tmp_path_factory.mktemp("decoder"), **kind)
            known[key] = compiled(root, model, shapes, custom_io=custom_io)
        return known[key]

    return make


def info(num_slots: int, chunk_len: int = 4, **changes: int) -> SessionInfo:
    sizes = {"num_slots": num_slots, "ctx_len": CTX, "chunk_len": chunk_len, "vocab_size": VOCAB} | changes
    return SessionInfo(is_ragged=False, **sizes)


def program(
    folder: Path, device_ids: Sequence[int] | None = None, target: str = "cloud-ai-100-sim", num_devices: int = 1
) -> CloudAI100Program:
    opening = Opening(options=OpenOptions(num_devices=num_devices), device_ids=device_ids)
    return open_program(TARGETS[target], folder, GraphRecord(folder="", inputs={}, outputs={}), opening)


def session_over(opened: Program, make: Callable[[Program], Any]) -> Any:
    """A session over a program, which is closed where they do not fit."""
    try:
        return make(opened)
    except BaseException:
        opened.close()
        raise


def open_session(folder: Path, about: SessionInfo, device_ids: Sequence[int] | None = None) -> RetainedSession:
    session = session_over(program(folder, device_ids), lambda opened: RetainedSession(opened, about))
    assert isinstance(session, RetainedSession)
    return session


def open_encoder(folder: Path, batch_size: int = 3, seq_lens: tuple[int, ...] = (4, 8)) -> EncoderSession:
    contract = InputContract(seq_lens=seq_lens, batch_size=batch_size)
    session = session_over(program(folder), lambda opened: EncoderSession(opened, contract, "output"))
    assert isinstance(session, EncoderSession)
    return session


Open = Callable[..., RetainedSession]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens sessions and closes them."""
    sessions: list[RetainedSession] = []

    def open_one(folder: Path, about: SessionInfo) -> RetainedSession:
        session = open_session(folder, about)
        sessions.append(session)
        return session

    yield open_one
    for session in sessions:
        session.close()


@pytest.fixture
def batched(made: Make, opened: Open) -> RetainedSession:
    """3 slots over 4 rows of state."""
    return opened(made(PREFILL, DECODE, batched=True), info(3))


Runs = list[dict[str, np.ndarray]]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """The inputs of every run."""
    noted: Runs = []
    run = QAICInferenceSession.run

    def note(self: QAICInferenceSession, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        noted.append({name: np.array(array) for name, array in inputs.items()})
        return run(self, inputs)

    monkeypatch.setattr(QAICInferenceSession, "run", note)
    return noted


def answers(session: RetainedSession, prompts: Sequence[list[int]], count: int = CTX) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in prompts]
    for token in Engine(session).run([Request(prompt_ids=prompt, max_new_tokens=count) for prompt in prompts]):
        found[token.index].append(token.token_id)
    return found


def one_by_one(session: RetainedSession, tokens: Sequence[int], slot: int, start: int) -> np.ndarray:
    """Logits after the last of tokens that go in one step each."""
    for position, token in enumerate(tokens, start):
        logits = session.step([Chunk(slot, [token], position)])
    return logits[0]


def test_the_reference_is_not_trivial() -> None:
    expected = [answer(prompt, CTX) for prompt in PROMPTS]
    assert len({tuple(tokens) for tokens in expected}) == len(PROMPTS)
    assert all(len(set(tokens)) > 2 for tokens in expected)


def test_more_prompts_than_slots_with_continuous_batching(batched: RetainedSession, runs: Runs) -> None:
    expected = [answer(prompt, CTX) for prompt in PROMPTS]
    assert answers(batched, PROMPTS) == expected
    assert {run["input_ids"].shape for run in runs} == {(1, 4), (3, 1)}
    assert answers(batched, PROMPTS[::-1]) == expected[::-1], "on used slots"


def test_more_prompts_than_slots_without(made: Make, opened: Open, runs: Runs) -> None:
    shapes = [{"batch_size": 2, "seq_len": length, "ctx_len": CTX} for length in (4, 1)]
    session = opened(made(*shapes), info(2))
    assert answers(session, PROMPTS) == [answer(prompt, CTX) for prompt in PROMPTS]
    assert {run["input_ids"].shape for run in runs} == {(2, 4), (2, 1)}


def test_logits_come_in_the_order_of_the_chunks(batched: RetainedSession) -> None:
    """Prompts and answers in one step, several runs, and one that nobody reads."""
    batched.step([Chunk(2, PROMPTS[0][:4], 0, num_logits=0), Chunk(0, PROMPTS[2], 0)])
    logits = batched.step(
        [
            Chunk(0, [9], 4),
            Chunk(1, PROMPTS[3], 0),
            Chunk(3, PROMPTS[4], 0, num_logits=0),
            Chunk(2, PROMPTS[0][4:], 4),
        ]
    )
    expected = [reference([*PROMPTS[2], 9]), reference(PROMPTS[3]), reference(PROMPTS[0])]
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert batched.step([]).shape == (0, VOCAB)
    nothing = batched.step([Chunk(0, [1], 5, num_logits=0), Chunk(1, [1], 5, num_logits=0)])
    assert nothing.shape == (0, VOCAB)
    assert nothing.dtype == np.float32


def test_slots_in_any_order_without_continuous_batching(made: Make, opened: Open) -> None:
    shapes = [{"batch_size": 2, "seq_len": length, "ctx_len": CTX} for length in (4, 1)]
    session = opened(made(*shapes), info(2))
    logits = session.step([Chunk(1, [1, 2, 3], 0), Chunk(0, [4, 5], 0)])
    np.testing.assert_allclose(logits, [reference([1, 2, 3]), reference([4, 5])], atol=1e-4)
    np.testing.assert_allclose(session.step([Chunk(1, [6], 3)]), [reference([1, 2, 3, 6])], atol=1e-4)
    np.testing.assert_allclose(session.step([Chunk(0, [6], 2)]), [reference([4, 5, 6])], atol=1e-4)


def test_prefix_caching(batched: RetainedSession) -> None:
    """A spare row is filled once; every prompt that begins with it goes on in that row."""
    prefix = PROMPTS[0][:6]
    batched.step([Chunk(3, prefix[:4], 0, num_logits=0)])
    batched.step([Chunk(3, prefix[4:], 4, num_logits=0)])
    assert answers(batched, PROMPTS[1:5], 6) == [answer(prompt, 6) for prompt in PROMPTS[1:5]]
    for rest in ([2, 8], [14], [21, 21, 21]):
        logits = one_by_one(batched, rest, 3, len(prefix))
        np.testing.assert_allclose(logits, reference([*prefix, *rest]), atol=1e-4)


def test_idle_rows_touch_no_active_one(batched: RetainedSession, runs: Runs) -> None:
    for slots in ([0], [1], [3], [2, 0], [1, 3], [0, 1, 2]):
        runs.clear()
        batched.step([Chunk(slot, [5], 0) for slot in slots])
        (run,) = runs
        rows = run["batch_index"][:, 0].tolist()
        assert rows[: len(slots)] == slots
        assert len({*rows}) == 3
        assert not {*rows[len(slots) :]} & {*slots}
        assert (run["position_ids"][len(slots) :] == -1).all()


def test_an_idle_row_avoids_the_other_runs_of_a_step_too(batched: RetainedSession, runs: Runs) -> None:
    """As long as there are others."""
    batched.step([Chunk(0, PROMPTS[0][:4], 0), Chunk(2, [1], 0)])
    assert [run["batch_index"][:, 0].tolist() for run in runs] == [[0], [2, 1, 3]]
    runs.clear()
    batched.step([Chunk(slot, [1], 0) for slot in range(4)])
    assert [run["batch_index"][:, 0].tolist() for run in runs] == [[0, 1, 2], [3, 0, 1]]
    runs.clear()
    batched.step([Chunk(slot, [1], 0) for slot in (3, 2, 1, 0)])
    assert [run["batch_index"][:, 0].tolist() for run in runs] == [[3, 2, 1], [0, 1, 2]]


# Shapes


def ctx_lens(seq_len: int, batch_size: int, *lengths: int) -> list[dict[str, int]]:
    size = {"batch_size": batch_size, "seq_len": seq_len, **BATCHED}
    return [{**size, "comp_ctx_lengths": length} for length in lengths]


def test_the_shortest_context_that_is_enough(made: Make, opened: Open, runs: Runs) -> None:
    shapes = [*ctx_lens(4, 1, 8, 16), *ctx_lens(1, 3, 6, 12, 16)]
    session = opened(made(*shapes, batched=True, ccl=True), info(3))
    assert answers(session, PROMPTS) == [answer(prompt, CTX) for prompt in PROMPTS]
    assert answers(session, [[2]], 3) == [answer([2], 3)]
    compiled_lens = {4: (8, 16), 1: (6, 12, 16)}
    for run in runs:
        length, needed = run["input_ids"].shape[1], run["position_ids"].max() + 1
        assert len(run["comp_ctx_lengths"]) == min(n for n in compiled_lens[length] if n >= needed)
    assert {len(run["comp_ctx_lengths"]) for run in runs} == {6, 8, 12, 16}


def test_a_prompt_beyond_its_contexts_goes_on_token_by_token(made: Make, opened: Open, runs: Runs) -> None:
    session = opened(made(*ctx_lens(4, 1, 8, 10), *ctx_lens(1, 3, 16), batched=True, ccl=True), info(3))
    prompt = [*PROMPTS[5], 3, 1, 4, 1]
    assert answers(session, [prompt], 2) == [answer(prompt, 2)]
    assert [run["input_ids"].shape[1] for run in runs] == [4, 4, 4, 1, 1, 1, 1]
    assert runs[2]["position_ids"].tolist() == [[8, 9, -1, -1]]
    prompts = [*PROMPTS, prompt]
    assert answers(session, prompts) == [answer(one, CTX) for one in prompts]


def test_no_shape_reaches_the_position(made: Make, opened: Open) -> None:
    session = opened(made(*ctx_lens(4, 1, 8, 12), batched=True, ccl=True), info(3))
    session.step([Chunk(0, [1] * 4, 0)])
    for start, tokens in ((12, [1]), (10, [1] * 4)):
        with pytest.raises(LifecycleError, match=r"Position 12 of slot 0 .*12 with 4 token\(s\).*comp_ctx_lengths"):
            session.step([Chunk(0, tokens, start)])


def test_speculative_tokens(made: Make, opened: Open, runs: Runs) -> None:
    """The last row of logits is the newest token's, in either shape."""
    shapes = [{**PREFILL, "num_logits_to_keep": 1}, {**DECODE, "seq_len": 3, "num_logits_to_keep": 3}]
    session = opened(made(*shapes, batched=True, keep=True), info(3))
    assert answers(session, PROMPTS) == [answer(prompt, CTX) for prompt in PROMPTS]
    assert {(run["input_ids"].shape, len(run["num_logits_to_keep"])) for run in runs} == {((1, 4), 1), ((3, 3), 3)}
    logits = session.step([Chunk(1, [1, 2], 0), Chunk(0, [4, 5, 6], 0)])
    np.testing.assert_allclose(logits, [reference([1, 2]), reference([4, 5, 6])], atol=1e-4)


@pytest.mark.parametrize(("shape", "slow"), [(PREFILL, "answers"), (DECODE, "prompts")])
def test_one_shape_does_the_work_of_both(
    made: Make, opened: Open, caplog: pytest.LogCaptureFixture, shape: dict[str, int], slow: str
) -> None:
    session = opened(made(shape, batched=True), info(3))
    with caplog.at_level(logging.WARNING):
        assert answers(session, PROMPTS, 3) == [answer(prompt, 3) for prompt in PROMPTS]
    assert [f"{slow} are slow: compile without prefill_only" in text for text in caplog.messages] == [True]


def test_prompts_of_single_tokens(made: Make, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    """prefill_seq_len=1 is no makeshift."""
    session = opened(made(DECODE, batched=True), info(3, chunk_len=1))
    assert answers(session, PROMPTS, 3) == [answer(prompt, 3) for prompt in PROMPTS]
    assert caplog.messages == []


def test_half_precision_logits(made: Make, opened: Open) -> None:
    session = opened(made(PREFILL, DECODE, batched=True, custom_io={"logits": "float16"}), info(3))
    for chunks in ([Chunk(0, [1, 2, 3], 0)], [Chunk(0, [1, 2, 3], 0), Chunk(1, [4], 0)]):
        logits = session.step(chunks)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits[0], reference([1, 2, 3]), atol=1e-2)


# Errors


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (Chunk(4, [1], 0), r"no slot 4: the program keeps 4, 0 to 3\. Compile with a larger kv_cache_batch_size"),
        (Chunk(-1, [1], 0), "no slot -1"),
        (Chunk(0, [1], CTX), "tokens 16 to 16 do not fit ctx_len=16"),
        (Chunk(0, [1] * 4, CTX - 3), "tokens 13 to 16 do not fit"),
        (Chunk(0, [1], -1), "do not fit"),
        (Chunk(0, [], 0), "do not fit"),
    ],
)
def test_impossible_chunks(batched: RetainedSession, runs: Runs, chunk: Chunk, message: str) -> None:
    with pytest.raises(CapacityError, match=message):
        batched.step([Chunk(1, [1], 0), chunk])
    assert runs == []


def test_a_slot_twice(batched: RetainedSession) -> None:
    with pytest.raises(OptionError, match="each slot once"):
        batched.step([Chunk(1, [1], 0), Chunk(1, [1], 1)])


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (info(5), "4 rows of state for batches of 1, expected at least 5"),
        (info(3, vocab_size=25), r"logits are \(1, 1, 24\), expected \(1, 1, 25\)"),
        (info(3, chunk_len=8), r"input_ids are \(1, 4\), expected a length of 1 or 8"),
        (info(3, ctx_len=8), "its contexts are longer than ctx_len=8"),
    ],
)
def test_a_program_that_is_not_what_its_package_says(made: Make, about: SessionInfo, message: str) -> None:
    with pytest.raises(CorruptArtifact, match=f"{message}.*Compile the model again") as caught:
        open_session(made(PREFILL, DECODE, batched=True), about)
    assert caught.traceback, "it holds on to the session, so that only closing gives the card back"
    assert DEVICES.usage(0).num_programs == 0


def test_other_slots_without_continuous_batching(made: Make) -> None:
    shapes = [{"batch_size": 2, "seq_len": length, "ctx_len": CTX} for length in (4, 1)]
    with pytest.raises(CorruptArtifact, match="batches of 2 over 2 rows of state, expected 1"):
        open_session(made(*shapes), info(1))


def test_a_program_of_another_task(made: Make, root: Path, tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match="takes batch_index, input_ids, position_ids and gives logits; expected"):
        open_encoder(made(PREFILL, DECODE, batched=True), seq_lens=(4,))
    with pytest.raises(CorruptArtifact, match="takes attention_mask, input_ids and gives output; expected"):
        open_session(compiled(root, encoder(tmp_path), [{"batch_size": 2, "seq_len": 4}]), info(2))


def test_a_closed_session(batched: RetainedSession) -> None:
    batched.close()
    with pytest.raises(LifecycleError, match="is closed"):
        batched.step([Chunk(0, [1], 0)])


def test_no_sdk_of_the_card(made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEFF_QAIC_SDK", str(tmp_path / "nothing"))
    with pytest.raises(TargetUnavailable, match=r"there is no SDK at .*nothing"):
        program(made(PREFILL, DECODE, batched=True), target="cloud-ai-100")


def test_the_timeout_of_the_environment(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(PREFILL, DECODE, batched=True)
    monkeypatch.setenv("QEFF_DATA_PATH_TIMEOUT_MS", "123456")
    opened = program(folder)
    assert opened.session._program._program.properties.dataPathTimeoutMs == 123456
    opened.close()
    monkeypatch.setenv("QEFF_DATA_PATH_TIMEOUT_MS", "soon")
    with pytest.raises(OptionError, match="QEFF_DATA_PATH_TIMEOUT_MS must be a whole number of milliseconds"):
        open_session(folder, info(3))


def test_devices(made: Make) -> None:
    folder = made(PREFILL, DECODE, batched=True)
    session = open_session(folder, info(3), [2])
    assert [DEVICES.usage(qid).num_programs for qid in range(4)] == [0, 0, 1, 0]
    session.close()
    with pytest.raises(OptionError, match=r"on QID 0, 1: .*as many devices"):
        program(folder, num_devices=2)


def test_no_inner_values(made: Make) -> None:
    opened = program(made(PREFILL, DECODE, batched=True))
    assert opened.outputs == {"logits"}
    opened.close()


# Encoders


@pytest.fixture(scope="module")
def encoder_folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shapes = [{"batch_size": 3, "seq_len": length} for length in (4, 8)]
    return compiled(root, encoder(tmp_path_factory.mktemp("encoder")), shapes, "-convert-to-fp16")


def test_texts_of_any_length_in_their_order(encoder_folder: Path, runs: Runs) -> None:
    texts = [[3, 1, 4, 1, 5, 9], [2], [6, 5, 3, 5], [8, 9], [7, 9, 3, 2, 3, 8, 4, 6], [2, 6, 4], [3]]
    session = open_encoder(encoder_folder)
    expected = [weights()["embed"][text].mean(0) for text in texts]
    for count in (1, 2, 7):
        output = session.run(texts[:count])
        assert output.dtype == np.float32
        np.testing.assert_allclose(output, expected[:count], atol=2e-3)
    assert {run["input_ids"].shape for run in runs} == {(3, 4), (3, 8)}
    masks = np.concatenate([run["attention_mask"].sum(1) for run in runs])
    assert masks.min() == 1, "a row of padding has one token, so that no mean is of nothing"
    session.close()


def test_what_an_encoder_does_not_take(encoder_folder: Path) -> None:
    opened = program(encoder_folder)
    for shape in ((4, 4), (3, 5)):
        ones = np.ones(shape, np.int64)
        passed = re.escape(f"Allowed: (3, 4), (3, 8). Passed: {shape}")
        with pytest.raises(OptionError, match=passed):
            opened.run({"input_ids": ones, "attention_mask": ones})
    opened.close()
    for change in ({"batch_size": 2}, {"seq_lens": (4,)}, {"seq_lens": (4, 8, 16)}):
        with pytest.raises(CorruptArtifact, match=r"it takes \[\(3, 4\), \(3, 8\)\], expected batch_size=") as caught:
            open_encoder(encoder_folder, **change)  # type: ignore[arg-type]
        assert caught.traceback
        assert DEVICES.usage(0).num_programs == 0
