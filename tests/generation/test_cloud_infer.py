"""The session that existing clients use, driven as they drive it, on simulated cards."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation.tiny_programs import CTX, VOCAB, compiled, decoder, reference
from generation.tiny_programs import answer as expected_answer
from numpy.typing import NDArray

from QEfficient.compile.qaic_sdk import QaicSDK
from QEfficient.errors import (
    ArtifactNotFound,
    CapacityError,
    CorruptArtifact,
    DeviceError,
    LifecycleError,
    OptionError,
    QEffError,
    TargetUnavailable,
)
from QEfficient.generation import cloud_infer
from QEfficient.generation.cloud_infer import QAICInferenceSession
from QEfficient.simulator.runtime import qaicrt
from QEfficient.simulator.runtime.devices import DEVICES
from QEfficient.simulator.runtime.executor import Executable
from QEfficient.simulator.runtime.qaicrt import QStatus
from QEfficient.simulator.sdk import install

pytestmark = pytest.mark.xdist_group("qaic")

PLAIN = [{"batch_size": 1, "seq_len": length, "ctx_len": CTX} for length in (4, 1)]
TOKENS = [3, 5, 1, 9, 12, 7, 20, 2, 15]


@pytest.fixture(autouse=True, scope="module")
def no_programs_of_others() -> None:
    """Models that other tests left give their cards back when they are collected."""
    gc.collect()


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable of the caller's reaches the cards, and no test leaves a program on them."""
    for name in [name for name in os.environ if name.startswith(("QEFF_SIM_", "QEFF_QAIC"))]:
        monkeypatch.delenv(name)
    yield
    assert [DEVICES.usage(qid).num_programs for qid in range(4)] == [0] * 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("sdk") / "sdk")


@pytest.fixture(scope="module")
def sdk(root: Path) -> QaicSDK:
    found = QaicSDK.find(root)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def plain(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One row, prompts of 4 and single tokens, through the SDK's own command."""
    return compiled(root, decoder(tmp_path_factory.mktemp("plain")), PLAIN)


@pytest.fixture(scope="module")
def batched(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Continuous batching: 3 rows of state, prompts of 4 alone, single tokens of 2 rows."""
    sizes = [{"batch_size": 1, "seq_len": 4}, {"batch_size": 2, "seq_len": 1}]
    model = decoder(tmp_path_factory.mktemp("batched"), batched=True)
    return compiled(root, model, [{**size, "full_batch_size": 3, "ctx_len": CTX} for size in sizes])


Open = Callable[..., QAICInferenceSession]


@pytest.fixture
def opened(sdk: QaicSDK) -> Iterator[Open]:
    """Opens sessions and closes them."""
    sessions: list[QAICInferenceSession] = []

    def open_one(path: Path, *args: Any, **options: Any) -> QAICInferenceSession:
        sessions.append(QAICInferenceSession(path, *args, sdk=sdk, **options))
        return sessions[-1]

    yield open_one
    for session in sessions:
        session.close()


@pytest.fixture
def session(opened: Open, plain: Path) -> QAICInferenceSession:
    return skipping(opened(plain))


def skipping(session: QAICInferenceSession) -> QAICInferenceSession:
    """As clients begin: what is kept on the card is not transferred."""
    names = [*session.input_names, *session.output_names]
    session.skip_buffers([name for name in names if name.startswith("past_") or name.endswith("_RetainedState")])
    return session


def ids(*tokens: int) -> NDArray:
    return np.array([tokens], np.int64)


def prompt_of_4(tokens: list[int], start: int = 0) -> dict[str, NDArray]:
    padding = 4 - len(tokens)
    positions = [*range(start, start + len(tokens)), *[-1] * padding]
    return {"input_ids": ids(*tokens, *[0] * padding), "position_ids": ids(*positions)}


class Client:
    """What a client outside of this library does: sizes from ``allowed_shapes``, chunks, then token after token."""

    def __init__(self, session: QAICInferenceSession):
        self.session = skipping(session)
        index, shapes = session.binding_index_map, session.allowed_shapes
        sizes = [allowed[index["input_ids"]][1] for allowed in shapes]
        self.prefill_len = max(length for _, length in sizes)
        self.decode_batch = max(batch for batch, _ in sizes)
        self.vocab = shapes[0][index["logits"]][1][-1]
        self.dtype = session.aic_to_np_dtype_mapping[session.bindings[index["logits"]].type]

    def preset(self, batch: int) -> None:
        self.session.set_buffers({"logits": np.zeros((batch, 1, self.vocab), self.dtype)})

    def prefill(self, prompt: list[int], row: int | None = None) -> int:
        num_chunks = -(-len(prompt) // self.prefill_len)
        padding = num_chunks * self.prefill_len - len(prompt)
        tokens = np.array([[*prompt, *[0] * padding]])
        positions = np.array([[*range(len(prompt)), *[-1] * padding]])
        self.preset(1)
        for begin in range(0, tokens.shape[1], self.prefill_len):
            columns = slice(begin, begin + self.prefill_len)
            inputs = {"input_ids": tokens[:, columns], "position_ids": positions[:, columns]}
            if row is not None:
                inputs["batch_index"] = np.array([[row]])
            outputs = self.session.run(inputs)
        return int(outputs["logits"].argmax(-1)[0, 0])

    def decode(self, prompts: list[list[int]], first: list[int], count: int, rows: list[int] | None) -> list[list[int]]:
        answers = [[token] for token in first]
        self.preset(len(prompts))
        inputs = {"batch_index": np.array(rows)[:, None]} if rows is not None else {}
        for step in range(count - 1):
            inputs["input_ids"] = np.array([answer[-1:] for answer in answers])
            inputs["position_ids"] = np.array([[len(prompt) + step] for prompt in prompts])
            tokens = self.session.run(inputs)["logits"].argmax(-1)[:, 0]
            for answer, token in zip(answers, tokens, strict=True):
                answer.append(int(token))
            inputs = {}  # batch_index keeps what it had
        return answers


def test_a_client_over_one_row(opened: Open, plain: Path) -> None:
    client = Client(opened(plain))
    assert (client.prefill_len, client.decode_batch, client.vocab) == (4, 1, VOCAB)
    for prompt in (TOKENS[:6], TOKENS[:4], TOKENS[2:3]):
        first = client.prefill(prompt)
        assert client.decode([prompt], [first], 8, None) == [expected_answer(prompt, 8)]


def test_a_client_with_continuous_batching(opened: Open, batched: Path) -> None:
    client = Client(opened(batched))
    assert client.decode_batch == 2
    prompts, rows = [TOKENS[:7], TOKENS[4:6]], [2, 0]
    first = [client.prefill(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]
    answers = client.decode(prompts, first, 8, rows)
    assert answers == [expected_answer(prompt, 8) for prompt in prompts]
    assert answers[0] != answers[1]


def test_what_a_client_reads(session: QAICInferenceSession) -> None:
    assert session.input_names == ["input_ids", "position_ids", "past_key.0", "past_value.0"]
    assert session.output_names == ["logits", "past_key.0_RetainedState", "past_value.0_RetainedState"]
    assert session.binding_index_map == {b.name: b.index for b in session.bindings}
    assert session.allowed_shapes[1][session.binding_index_map["input_ids"]] == (8, [1, 1])
    assert session.allowed_shapes[0][session.binding_index_map["logits"]] == (4, [1, 1, VOCAB])
    assert session.state_names == [f"past_{k}.0{end}" for k in ("key", "value") for end in ("", "_RetainedState")]


def test_arguments_keep_their_places(sdk: QaicSDK, plain: Path) -> None:
    """Clients pass them by position."""
    session = QAICInferenceSession(plain / "qpc", [1], False, False, 5000, sdk)
    assert session.qpc_path == plain / "qpc"
    assert DEVICES.usage(1).num_programs == 0
    session.activate()
    session.activate()
    assert DEVICES.usage(1).num_programs == 1
    session.close()


def test_the_runtime_is_imported_when_a_session_opens() -> None:
    modules = "QEfficient.generation.cloud_infer, QEfficient.generation.programs.qaic"
    code = f"import sys, {modules}; print(*sys.modules)"
    loaded = {
        name.partition(".")[0]
        for name in subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    }
    assert not loaded & {"torch", "transformers", "onnx", "onnxruntime", "qaicrt", "QAicApi_pb2", "ml_dtypes"}
    assert "QEfficient" in loaded


def test_no_sdk(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEFF_QAIC_SDK", str(tmp_path / "nothing"))
    with pytest.raises(TargetUnavailable, match=r"there is no SDK at .*nothing"):
        QAICInferenceSession(plain)


def test_the_installed_sdk_is_the_default(root: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEFF_QAIC_SDK", str(root))
    with QAICInferenceSession(str(plain / "qpc" / "programqpc.bin")) as session:
        assert session.input_names[0] == "input_ids"


# Buffers


def test_buffers_stay_until_they_are_replaced(session: QAICInferenceSession) -> None:
    session.run(prompt_of_4(TOKENS[:4]))
    again = session.run({"input_ids": ids(*TOKENS[4:8])})
    positions_kept = session.run(prompt_of_4(TOKENS[4:8]))
    np.testing.assert_array_equal(again["logits"], positions_kept["logits"])
    assert list(again) == ["logits"]


def test_buffers_are_copied(session: QAICInferenceSession) -> None:
    given = prompt_of_4(TOKENS[:4])
    session.set_buffers(given)
    given["input_ids"][:] = 0
    np.testing.assert_allclose(session.run({})["logits"][0, 0], reference(TOKENS[:4]), atol=1e-5)


def test_results_do_not_change_with_later_runs(session: QAICInferenceSession) -> None:
    first = session.run(prompt_of_4(TOKENS[:4]))["logits"]
    before = first.copy()
    second = session.run(prompt_of_4(TOKENS[4:8], 4))["logits"]
    np.testing.assert_array_equal(first, before)
    assert np.abs(first - second).max() > 0.1


def test_arrays_need_not_be_contiguous(session: QAICInferenceSession) -> None:
    """Clients cut a prompt's columns into chunks."""
    wide = np.zeros((1, 8), np.int64)
    wide[:, ::2] = TOKENS[:4]
    tall = np.asfortranarray(np.array([TOKENS[:4], [0] * 4]))[:1]
    for given in (wide[:, ::2], tall):
        assert given.strides[1] != 8
        logits = session.run({**prompt_of_4(TOKENS[:4]), "input_ids": given})["logits"]
        np.testing.assert_allclose(logits[0, 0], reference(TOKENS[:4]), atol=1e-5)


def test_an_output_follows_the_inputs_unless_it_was_set(opened: Open, batched: Path) -> None:
    session = skipping(opened(batched))
    prompt = {**prompt_of_4(TOKENS[:4]), "batch_index": np.array([[0]])}
    both = {
        "input_ids": np.array([[1], [2]]),
        "position_ids": np.array([[4], [-1]]),
        "batch_index": np.array([[0], [1]]),
    }
    assert session.run(prompt)["logits"].shape == (1, 1, VOCAB)
    assert session.run(both)["logits"].shape == (2, 1, VOCAB)
    session.set_buffers({"logits": np.zeros((1, 1, VOCAB), np.float32)})
    with pytest.raises(OptionError, match="No specialization has these shapes together"):
        session.run(both)
    session.reset_buffers(["logits"])
    assert session.run(both)["logits"].shape == (2, 1, VOCAB)
    session.skip_buffers(["logits"])
    assert session.run(both) == {}


def test_state_may_be_read_and_written(session: QAICInferenceSession) -> None:
    session.run(prompt_of_4(TOKENS[:4]))
    state = [name for name in session.output_names if name != "logits"]
    session.reset_buffers(state)
    outputs = session.run({"input_ids": ids(TOKENS[4]), "position_ids": ids(4)})
    kept = {name.removesuffix("_RetainedState"): outputs[name] for name in state}
    session.deactivate()
    session.activate()
    logits = session.run({**kept, "input_ids": ids(TOKENS[5]), "position_ids": ids(5)})["logits"]
    np.testing.assert_allclose(logits[0, 0], reference(TOKENS[:6]), atol=1e-5)


def test_no_buffer_of_the_state_is_made_and_none_twice(
    opened: Open, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card's state is gigabytes, and what stays the same is not given anew."""
    sizes: list[int] = []
    make = qaicrt.QBuffer.__init__

    def noted(self: qaicrt.QBuffer, data: Any = b"") -> None:
        make(self, data)
        sizes.append(self.size)

    session = skipping(opened(plain))
    monkeypatch.setattr(qaicrt.QBuffer, "__init__", noted)
    monkeypatch.setattr(qaicrt.ExecObj, "getData", _plain_results)
    for position in range(3):
        session.run({"input_ids": ids(1), "position_ids": ids(position)})
    assert sorted(size for size in sizes if size) == [8] * 6 + [VOCAB * 4]


def _plain_results(self: qaicrt.ExecObj) -> tuple[QStatus, list[bytes]]:
    """Without buffers of its own, which are not the session's to save."""
    assert self._results is not None
    return QStatus.QS_SUCCESS, self._results


WRONG: dict[str, tuple[dict[str, NDArray], str]] = {
    "shape": ({"input_ids": ids(1, 2, 3)}, r"'input_ids'.*Allowed: \(1, 1\), \(1, 4\)\. Passed: \(1, 3\)"),
    "rank": ({"input_ids": np.zeros(4, np.int64)}, r"Passed: \(4,\)"),
    "output's shape": ({"logits": np.zeros((4, 1, VOCAB), np.float32)}, r"'logits'.*Passed: \(4, 1, 24\)"),
    "type": ({"input_ids": ids(1, 2, 3, 4).astype(np.int32)}, "'input_ids' must be int64, got int32"),
    "state's type": ({"past_key.0": np.zeros((1, 1, CTX, 16), np.float16)}, "must be float32, got float16"),
    "byte order": ({"input_ids": ids(1, 2, 3, 4).astype(">i8")}, "must be int64, got >i8"),
    "no numbers": ({"input_ids": np.array(None)}, "'input_ids' must be int64, got object"),
    "skipped": ({"logits": np.array([])}, "'logits' cannot be skipped"),
    "together": ({"position_ids": ids(0)}, r"Allowed:\n  0: input_ids \(1, 4\), position_ids \(1, 4\)"),
}


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG)
def test_wrong_buffers_never_reach_the_card(
    session: QAICInferenceSession, given: dict[str, NDArray], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are refused together: the good one beside the wrong one is not set either."""
    right = prompt_of_4(TOKENS[:4])
    before = session.run(right)["logits"]
    with monkeypatch.context() as patch:
        patch.setattr(qaicrt.Queue, "enqueue", lambda self, exec_obj: pytest.fail("the card saw it"))
        with pytest.raises(OptionError, match=message):
            session.run({"position_ids": ids(4, 5, 6, 7), **given})
    if "position_ids" in given:
        session.set_buffers(right)
    np.testing.assert_array_equal(session.run({})["logits"], before)


def test_buffers_that_the_program_does_not_have_are_left_out_with_a_warning(
    session: QAICInferenceSession, caplog: pytest.LogCaptureFixture
) -> None:
    right = prompt_of_4(TOKENS[:4])
    before = session.run(right)["logits"]
    more = {**right, "input_id": ids(1), "batch_index": ids(0)}
    session.skip_buffers(["no_such_state"])
    np.testing.assert_array_equal(session.run(more)["logits"], before)
    session.run(more)
    assert "no buffer 'input_id', which is left out. Did you mean 'input_ids'?" in caplog.text
    assert [caplog.text.count(f"'{name}'") for name in ("batch_index", "no_such_state")] == [1, 1]


def test_a_program_of_one_shape_lists_none(root: Path, opened: Open, tmp_path: Path) -> None:
    flags = [f"-onnx-define-symbol={name},{size}" for name, size in PLAIN[0].items()]
    session = skipping(opened(compiled(root, decoder(tmp_path), None, *flags)))
    assert session.allowed_shapes == []
    assert session.specializations[0]["input_ids"] == (1, 4)
    logits = session.run(prompt_of_4(TOKENS[:3]))["logits"]
    np.testing.assert_allclose(logits[0, 0], reference(TOKENS[:3]), atol=1e-5)
    with pytest.raises(OptionError, match=r"Allowed: \(1, 4\)\. Passed: \(1, 1\)"):
        session.run({"input_ids": ids(1)})


# Types


def test_half_precision(root: Path, opened: Open, tmp_path: Path) -> None:
    session = skipping(opened(compiled(root, decoder(tmp_path), PLAIN, custom_io={"logits": "float16"})))
    logits = session.run(prompt_of_4(TOKENS[:4]))["logits"]
    assert logits.dtype == np.float16
    np.testing.assert_allclose(logits[0, 0], reference(TOKENS[:4]), atol=5e-3)
    with pytest.raises(OptionError, match="must be float16, got float32"):
        session.set_buffers({"logits": np.zeros((1, 1, VOCAB), np.float32)})


@pytest.fixture(scope="module")
def bfloat16(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    custom_io = dict.fromkeys(["logits", "past_key.0", "past_key.0_RetainedState"], "bfloat16")
    model = decoder(tmp_path_factory.mktemp("bfloat16"))
    return compiled(root, model, PLAIN, "-aic-hw-version=ai200", custom_io=custom_io)


@pytest.mark.parametrize("has_ml_dtypes", [True, False])
def test_bfloat16_is_not_read_as_float16(
    bfloat16: Path, opened: Open, monkeypatch: pytest.MonkeyPatch, has_ml_dtypes: bool
) -> None:
    if not has_ml_dtypes:
        monkeypatch.setattr(cloud_infer, "find_spec", lambda name: None)
    session = skipping(opened(bfloat16))
    logits = session.run(prompt_of_4(TOKENS[:4]))["logits"]
    assert logits.dtype.name == ("bfloat16" if has_ml_dtypes else "uint16")
    bits = logits.view(np.uint16).astype(np.uint32)
    values = logits.astype(np.float32) if has_ml_dtypes else (bits << 16).view(np.float32)
    np.testing.assert_allclose(values[0, 0], reference(TOKENS[:4]), atol=0.05)
    assert np.abs(logits.view(np.float16)[0, 0] - reference(TOKENS[:4])).max() > 0.1, "or the test says nothing"
    keys = np.zeros((1, 1, CTX, 16))
    session.set_buffers({"past_key.0": keys.astype(np.uint16)})
    with pytest.raises(OptionError, match=r"'past_key\.0' must be (bfloat16|uint16), got float16"):
        session.set_buffers({"past_key.0": keys.astype(np.float16)})


# Life


def test_activation(session: QAICInferenceSession) -> None:
    session.run(prompt_of_4(TOKENS[:4]))
    session.deactivate()
    session.deactivate()
    with pytest.raises(LifecycleError, match="is not active: call activate"):
        session.run(prompt_of_4(TOKENS[:4]))
    session.activate()
    logits = session.run({"input_ids": ids(TOKENS[4]), "position_ids": ids(4)})["logits"][0, 0]
    assert np.abs(logits - reference(TOKENS[:5])).max() > 0.05, "the state is a new one"
    session.close()
    session.close()
    for call in (session.activate, lambda: session.run({})):
        with pytest.raises(LifecycleError, match="is closed"):
            call()


def test_a_session_that_nobody_closes(sdk: QaicSDK, plain: Path) -> None:
    """As clients do: it goes with the last reference."""
    session = skipping(QAICInferenceSession(plain, sdk=sdk))
    session.run(prompt_of_4(TOKENS[:4]))
    assert DEVICES.usage(0).num_programs == 1
    del session
    gc.collect()
    assert DEVICES.usage(0).num_programs == 0


def test_the_execution_object_goes_before_the_program(
    session: QAICInferenceSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = weakref.ref(session._program._exec_obj)
    found = []
    deactivate = qaicrt.Program.deactivate

    def noted(self: qaicrt.Program) -> QStatus:
        found.append(alive())
        return deactivate(self)

    monkeypatch.setattr(qaicrt.Program, "deactivate", noted)
    session.close()
    assert found == [None]


@pytest.mark.parametrize("error", [RuntimeError("no handles"), MemoryError(), KeyboardInterrupt()])
def test_nothing_is_left_of_half_an_activation(
    sdk: QaicSDK, plain: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(self: qaicrt.ExecObj, context: object, program: object) -> None:
        assert DEVICES.usage(0).num_programs == 1
        raise error

    monkeypatch.setattr(qaicrt.ExecObj, "__init__", fail)
    kind = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else CapacityError
    with pytest.raises(kind):
        QAICInferenceSession(plain, sdk=sdk)
    assert DEVICES.usage(0).num_programs == 0
    with QAICInferenceSession(plain, activate=False, sdk=sdk) as session:
        with pytest.raises(kind):
            session.activate()
        assert DEVICES.usage(0).num_programs == 0


def test_a_session_that_cannot_open_unloads_its_program(
    sdk: QaicSDK, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unloaded = []
    unload = qaicrt.Program.unload
    monkeypatch.setattr(qaicrt.Program, "unload", lambda self: unloaded.append(status := unload(self)) or status)
    monkeypatch.setenv("QEFF_SIM_CORES", "3")
    with pytest.raises(CapacityError):
        QAICInferenceSession(plain, sdk=sdk)
    assert unloaded == [QStatus.QS_SUCCESS]


def test_no_cores_left(opened: Open, plain: Path, sdk: QaicSDK, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEFF_SIM_CORES", "7")
    first = opened(plain, [0])
    with pytest.raises(CapacityError, match=r"QID 0 has 3 of 7 cores .*fewer num_cores"):
        QAICInferenceSession(plain, [0], sdk=sdk)
    first.deactivate()
    opened(plain, [0])
    opened(plain, [1])
    with pytest.raises(CapacityError):
        first.activate()


def test_no_memory_left(sdk: QaicSDK, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEFF_SIM_DRAM_MB", "1")
    sizes = {"batch_size": 1, "seq_len": 1, "ctx_len": CTX, "full_batch_size": 600}
    program = compiled(root, decoder(tmp_path, batched=True), [sizes])
    with pytest.raises(CapacityError, match=r"cores or memory are not free.* of 1 MB free"):
        QAICInferenceSession(program, sdk=sdk)
    monkeypatch.setenv("QEFF_SIM_DRAM_MB", "2")
    QAICInferenceSession(program, sdk=sdk).close()


# Devices


@pytest.fixture(scope="module")
def sliced(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sliced")
    devices = [{"deviceId": number, "numCores": 4} for number in (0, 1)]
    partitions = [{"name": "Partition0", "devices": devices}]
    (folder / "mdp.json").write_text(
        json.dumps({"connections": [{"devices": [0, 1], "type": "p2p"}], "partitions": partitions})
    )
    return compiled(root, decoder(folder), PLAIN, f"-mdp-load-partition-config={folder / 'mdp.json'}")


def test_several_devices(opened: Open, sliced: Path) -> None:
    session = skipping(opened(sliced, [3, 1]))
    assert [DEVICES.usage(qid).num_programs for qid in range(4)] == [0, 1, 0, 1]
    logits = session.run(prompt_of_4(TOKENS[:4]))["logits"][0, 0]
    np.testing.assert_allclose(logits, reference(TOKENS[:4]), atol=1e-5)


def test_too_few_devices(sdk: QaicSDK, sliced: Path) -> None:
    for device_ids in (None, [0], [0, 1, 2]):
        with pytest.raises(OptionError, match="as many devices as the program was compiled for"):
            QAICInferenceSession(sliced, device_ids, sdk=sdk)


@pytest.mark.parametrize("device_ids", [[], [0, 0], ["0"], [True]])
def test_impossible_devices(sdk: QaicSDK, plain: Path, device_ids: Any) -> None:
    with pytest.raises(OptionError, match="device_ids must be QIDs, each once"):
        QAICInferenceSession(plain, device_ids, sdk=sdk)


def test_no_such_device(sdk: QaicSDK, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TargetUnavailable, match=r"on QID 9: QS_NODEV \(5\).*Devices here: 0, 1, 2, 3"):
        QAICInferenceSession(plain, [9], sdk=sdk)
    monkeypatch.setenv("QEFF_SIM_DEVICES", "0")
    with pytest.raises(TargetUnavailable, match="The runtime detects no card"):
        QAICInferenceSession(plain, sdk=sdk)


def test_a_device_that_is_not_ready(sdk: QaicSDK, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEFF_SIM_STATUS", "Error")
    with pytest.raises(TargetUnavailable, match="not ready"):
        QAICInferenceSession(plain, sdk=sdk)


# What the card says


@pytest.mark.parametrize("call", [(qaicrt.ExecObj, "setData"), (qaicrt.Queue, "enqueue"), (qaicrt.Program, "load")])
@pytest.mark.parametrize("status", [status for status in QStatus if status != QStatus.QS_SUCCESS])
def test_every_status_is_an_error_of_ours(
    sdk: QaicSDK, plain: Path, monkeypatch: pytest.MonkeyPatch, status: QStatus, call: tuple[type, str]
) -> None:
    monkeypatch.setattr(*call, lambda *args: status)
    with pytest.raises(QEffError, match=rf"{status.name} \({status.value}\)\. .+") as caught:  # noqa: SIM117
        with QAICInferenceSession(plain, sdk=sdk) as session:
            skipping(session).run(prompt_of_4(TOKENS[:4]))
    kinds = {"QS_NOMEM": CapacityError, "QS_NOSPC": CapacityError, "QS_NODEV": TargetUnavailable}
    assert isinstance(caught.value, kinds.get(status.name, QEffError))


def test_a_run_that_fails(session: QAICInferenceSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Executable, feeds: object, outputs: object) -> None:
        raise RuntimeError("a core is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(Executable, "run", fail)
        with pytest.raises(DeviceError, match=r"QS_DEV_ERROR \(300\).*log says why"):
            session.run(prompt_of_4(TOKENS[:4]))
    logits = session.run({})["logits"][0, 0]
    np.testing.assert_allclose(logits, reference(TOKENS[:4]), atol=1e-5)


def test_a_run_that_takes_too_long(opened: Open, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = skipping(opened(plain, data_path_timeout_ms=20))
    release = threading.Event()
    run = Executable.run

    def slowly(self: Executable, feeds: Any, outputs: Any) -> Any:
        release.wait(10)
        return run(self, feeds, outputs)

    monkeypatch.setattr(Executable, "run", slowly)
    with pytest.raises(DeviceError, match="did not answer within data_path_timeout_ms=20: give more"):
        session.run(prompt_of_4(TOKENS[:4]))
    with pytest.raises(LifecycleError, match="did not finish in time"):
        session.run(prompt_of_4(TOKENS[:4]))
    release.set()
    session.deactivate()
    session.activate()
    assert session.run(prompt_of_4(TOKENS[:4]))["logits"].shape == (1, 1, VOCAB)


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_an_interrupted_run_is_over_when_the_next_one_comes(
    session: QAICInferenceSession, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, wait, interrupts = Executable.run, qaicrt.ExecObj.waitForCompletion, iter([KeyboardInterrupt])

    def slowly(self: Executable, feeds: Any, outputs: Any) -> Any:
        threading.Event().wait(seconds)
        return run(self, feeds, outputs)

    def interrupted(self: qaicrt.ExecObj) -> QStatus:
        if interrupt := next(interrupts, None):
            raise interrupt
        return wait(self)

    monkeypatch.setattr(Executable, "run", slowly)
    monkeypatch.setattr(qaicrt.ExecObj, "waitForCompletion", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.run(prompt_of_4(TOKENS[:4]))
    logits = session.run(prompt_of_4(TOKENS[:4]))["logits"][0, 0]
    np.testing.assert_allclose(logits, reference(TOKENS[:4]), atol=1e-5)


@pytest.mark.parametrize("timeout", [0, -1, True, 1.5])
def test_impossible_timeout(sdk: QaicSDK, plain: Path, timeout: Any) -> None:
    with pytest.raises(OptionError, match="data_path_timeout_ms must be a whole number"):
        QAICInferenceSession(plain, data_path_timeout_ms=timeout, sdk=sdk)


def test_debug_logs(opened: Open, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[int] = []
    monkeypatch.setattr(qaicrt.Context, "setLogLevel", lambda self, level: levels.append(level) or QStatus.QS_SUCCESS)
    opened(plain)
    opened(plain, enable_debug_logs=True)
    assert levels == [qaicrt.QLogLevel.QL_DEBUG]


# Programs


def copied(plain: Path, folder: Path, change: Callable[[bytes], bytes]) -> Path:
    (folder / "qpc").mkdir()
    (folder / "qpc" / "programqpc.bin").write_bytes(change((plain / "qpc" / "programqpc.bin").read_bytes()))
    return folder


@pytest.mark.parametrize("length", [0, 10, 24, 2000, -1])
def test_a_truncated_program(sdk: QaicSDK, plain: Path, tmp_path: Path, length: int) -> None:
    folder = copied(plain, tmp_path, lambda data: data[:length])
    with pytest.raises(CorruptArtifact, match=r"programqpc.bin is cut short: expected \d+ bytes, got \d+\. Compile"):
        QAICInferenceSession(folder, sdk=sdk)


def test_something_that_is_no_program(sdk: QaicSDK, plain: Path, tmp_path: Path) -> None:
    folder = copied(plain, tmp_path, lambda data: b"\0" * len(data))
    with pytest.raises(CorruptArtifact, match=r"is not a program for this card: .*Compile it again"):
        QAICInferenceSession(folder, sdk=sdk)


def test_no_program(sdk: QaicSDK, tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound, match=r"no programqpc\.bin in .*compile the model first"):
        QAICInferenceSession(tmp_path, sdk=sdk)


def test_short_names_of_stitched_graphs() -> None:
    """The last part is enough where it is unique; functions' states go by their public name."""
    index = cloud_infer._index(["a/input_ids", "b/mask", "c/mask", "past_key.0_InternalRetainedState"])
    assert index["a/input_ids"] == index["input_ids"] == 0
    assert "mask" not in index
    assert index["past_key.0_RetainedState"] == 3
