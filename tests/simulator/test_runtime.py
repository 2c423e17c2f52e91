"""The runtime's rules, on a decoder: state, empty buffers, shapes, statuses, resources."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from simulator import graphs
from simulator.harness import DECODE, DECODER_FLAGS, PREFILL, Session, compile_graph, ids, run_once, state_io

from QEfficient.simulator import numerics
from QEfficient.simulator.runtime import qaicrt
from QEfficient.simulator.runtime.executor import POISON, Executable
from QEfficient.simulator.runtime.qaicrt import QStatus

LOGITS = np.zeros((1, 1, 16), np.float32)
TOKENS = (3, 5, 1, 9, 12, 7)


def reference(tokens: tuple[int, ...], quantise_state: bool = False) -> NDArray:
    """The decoder's logits after ``tokens``, in float32."""
    w = graphs.weights()
    hidden = w["embed"][list(tokens)]
    hidden = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + 1e-5)
    queries, keys, values = hidden @ w["w_q"], hidden @ w["w_k"], hidden @ w["w_v_t"].T
    if quantise_state:
        keys, values = numerics.round_mxint8(keys), numerics.round_mxint8(values)
    scores = queries[-1] @ keys.T
    probabilities = np.exp(scores - scores.max())
    return (probabilities / probabilities.sum()) @ values @ w["w_out"]


def prefill(session: Session, tokens: tuple[int, ...], start: int = 0) -> NDArray:
    """Up to 4 tokens, padded on the right with position −1."""
    padding = 4 - len(tokens)
    positions = [*range(start, start + len(tokens)), *[-1] * padding]
    given = {"input_ids": ids(*tokens, *[0] * padding), "position_ids": ids(*positions), "logits": LOGITS}
    return session.run_named(given)["logits"][0, 0]


def decode(session: Session, token: int, position: int) -> NDArray:
    return session.run(input_ids=ids(token), position_ids=ids(position), logits=LOGITS)["logits"][0, 0]


@pytest.fixture
def session(qpc: Path) -> Session:
    return Session(qpc).activate().skip_state()


def test_prefill_in_chunks_then_decode(session: Session) -> None:
    """State written by one specialization is read by the other; padding writes nothing."""
    np.testing.assert_allclose(prefill(session, TOKENS[:3]), reference(TOKENS[:3]), atol=5e-3)
    np.testing.assert_allclose(decode(session, TOKENS[3], 3), reference(TOKENS[:4]), atol=5e-3)
    np.testing.assert_allclose(prefill(session, TOKENS[4:], 4), reference(TOKENS), atol=5e-3)
    session.close()


@pytest.mark.parametrize("opset", [17, 20, 23])
def test_opsets(tmp_path: Path, opset: int) -> None:
    specializations = [PREFILL, DECODE]
    model = graphs.decoder(tmp_path, opset=opset, external=opset != 20)
    folder = compile_graph(model, tmp_path / "qpc", *DECODER_FLAGS, specializations=specializations)
    session = Session(folder).activate().skip_state()
    np.testing.assert_allclose(prefill(session, TOKENS[:3]), reference(TOKENS[:3]), atol=5e-3)
    session.close()


def test_state_is_skipped_or_returned(session: Session) -> None:
    outputs = session.run(input_ids=ids(3), position_ids=ids(0), logits=LOGITS)
    assert list(outputs) == ["logits"]
    wanted = np.zeros((1, 1, 8, 32), np.float16)
    outputs = session.run_named({"position_ids": ids(1), "past_key.0_RetainedState": wanted})
    assert list(outputs) == ["logits", "past_key.0_RetainedState"]
    keys = outputs["past_key.0_RetainedState"]
    assert keys.dtype == np.float16
    assert keys[0, 0, :2].any()
    assert not keys[0, 0, 2:].any()
    session.close()


def test_a_full_buffer_replaces_the_state(session: Session) -> None:
    keys = np.random.default_rng(0).normal(size=(1, 1, 8, 32)).astype(np.float16)
    wanted = {"past_key.0": keys, "past_key.0_RetainedState": np.zeros_like(keys)}
    given = {"input_ids": ids(3), "position_ids": ids(0), "logits": LOGITS}
    result = session.run_named({**given, **wanted})["past_key.0_RetainedState"]
    np.testing.assert_array_equal(result[0, 0, 1:], keys[0, 0, 1:])
    session.skip("past_key.0")
    again = session.run_named({"position_ids": ids(1)})["past_key.0_RetainedState"]
    np.testing.assert_array_equal(again[0, 0, 2:], keys[0, 0, 2:])
    session.close()


def test_state_belongs_to_the_activation(qpc: Path) -> None:
    first, second = (Session(qpc, [device]).activate().skip_state() for device in (0, 1))
    prefill(first, TOKENS[:4])
    prefill(second, (2, 2, 2, 2))
    np.testing.assert_allclose(decode(first, TOKENS[4], 4), reference(TOKENS[:5]), atol=5e-3)
    first.close()
    first.activate()
    forgotten = decode(first, TOKENS[4], 4)
    assert np.abs(forgotten - reference(TOKENS[:5])).max() > 0.05
    first.close()
    second.close()


@pytest.mark.parametrize("poison", [False, True])
def test_state_after_activation(qpc: Path, monkeypatch: pytest.MonkeyPatch, poison: bool) -> None:
    if poison:
        monkeypatch.setenv("QEFF_SIM_POISON", "1")
    session = Session(qpc).activate().skip_state()
    wanted = np.zeros((1, 1, 8, 32), np.float16)
    given = {"input_ids": ids(3), "position_ids": ids(0), "logits": LOGITS, "past_key.0_RetainedState": wanted}
    outputs = session.run_named(given)
    assert (outputs["past_key.0_RetainedState"][0, 0, 1:] == (POISON if poison else 0)).all()
    np.testing.assert_allclose(outputs["logits"][0, 0], reference(TOKENS[:1]), atol=5e-3)  # no row sees it
    session.close()


def test_continuous_batching(tmp_path: Path) -> None:
    """Rows of the state are picked by batch_index, in any order."""
    model = graphs.decoder(tmp_path, batched=True)
    sizes = {"batch_size": "1", "full_batch_size": "3", "ctx_len": "8"}
    batch = {**sizes, "batch_size": "2", "seq_len": "1"}
    folder = compile_graph(model, tmp_path / "qpc", *DECODER_FLAGS, specializations=[{**sizes, "seq_len": "4"}, batch])
    session = Session(folder).activate().skip_state()
    prompts = {2: TOKENS[:4], 0: TOKENS[2:6]}
    for slot, tokens in prompts.items():
        session.set({"batch_index": np.array([[slot]])})
        prefill(session, tokens)
    given = {
        "input_ids": np.array([[8], [11]]),
        "position_ids": np.array([[4], [4]]),
        "batch_index": np.array([[0], [2]]),
        "logits": np.zeros((2, 1, 16), np.float32),
    }
    logits = session.run_named(given)["logits"]
    np.testing.assert_allclose(logits[0, 0], reference((*prompts[0], 8)), atol=5e-3)
    np.testing.assert_allclose(logits[1, 0], reference((*prompts[2], 11)), atol=5e-3)
    session.close()


def test_mxint8_state(decoder: Path, tmp_path: Path) -> None:
    custom_io = state_io("mxint8")
    specializations = [PREFILL, DECODE]
    folder = compile_graph(
        decoder, tmp_path / "qpc", *DECODER_FLAGS, specializations=specializations, custom_io=custom_io
    )
    session = Session(folder).activate().skip_state()
    prefill(session, TOKENS[:4])
    logits = decode(session, TOKENS[4], 4)
    session.close()
    # The step's own row is stored after it was used, so it differs from a reference that quantises all rows.
    np.testing.assert_allclose(logits, reference(TOKENS[:5], quantise_state=True), atol=0.02)
    assert {b.name: b.size for b in session.bindings}["past_key.0"] == 8 * 32


KEEP = """g (float[64] s, float[64] x) => (float[64] y, float[64] s_RetainedState) {
    y = Identity (s)
    s_RetainedState = Identity (x)
}"""


@pytest.mark.parametrize(
    ("precision", "stored"),
    [("mxint8", numerics.round_mxint8), ("float16", numerics.round_fp16), ("bfloat16", numerics.round_bf16)],
)
def test_what_is_left_of_state(tmp_path: Path, precision: str, stored: Callable[[NDArray], NDArray]) -> None:
    custom_io = {"s": precision, "s_RetainedState": precision}
    model = graphs.parse(tmp_path / "m.onnx", KEEP)
    flags = ("-retained-state", "-aic-hw-version=ai200")
    session = Session(compile_graph(model, tmp_path / "qpc", *flags, custom_io=custom_io)).activate()
    session.skip("s", "s_RetainedState")
    x = np.random.default_rng(1).normal(size=64).astype(np.float32)
    session.run(x=x)
    np.testing.assert_array_equal(session.run(x=x)["y"], stored(x))
    assert (stored(x) != x).any()
    session.close()


def test_state_of_the_host_is_rounded_as_it_is_taken(tmp_path: Path) -> None:
    model = graphs.parse(tmp_path / "m.onnx", KEEP)
    session = Session(compile_graph(model, tmp_path / "qpc", "-retained-state", "-convert-to-fp16")).activate()
    x = np.full(64, 0.1, np.float32)
    np.testing.assert_array_equal(session.run(s=x, x=x)["y"], numerics.round_fp16(x))
    session.close()


def test_mxint8_bytes_are_the_cards_own(decoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = compile_graph(
        decoder, tmp_path / "qpc", *DECODER_FLAGS, specializations=[DECODE], custom_io=state_io("mxint8")
    )
    session = Session(folder).activate().skip_state()
    given = {"input_ids": ids(3), "position_ids": ids(0)}
    zeros = np.zeros((1, 1, 8, 32), np.uint8)
    assert session.submit({**given, "past_key.0": zeros}) == (0, 0, 0)
    assert session.submit({**given, "past_key.0": zeros + 1}) == (0, 0, 300)
    assert "past_key.0 is mxint8" in caplog.text
    session.close()


@pytest.mark.parametrize("flags", [(), ("-convert-to-fp16",)])
def test_state_is_stored_in_its_precision(tmp_path: Path, flags: tuple[str, ...]) -> None:
    body = """g (float[4] s, float[4] x) => (float[4] y, float[4] s_RetainedState) {
        y = Add (s, x)
        s_RetainedState = Identity (y)
    }"""
    model = graphs.parse(tmp_path / "m.onnx", body)
    custom_io = {"s": "float16", "s_RetainedState": "float16"}
    session = Session(compile_graph(model, tmp_path / "qpc", "-retained-state", *flags, custom_io=custom_io)).activate()
    session.skip("s", "s_RetainedState")
    x = np.array([0.1, 0.2, 0.3, 70000.0], np.float32)
    session.run(x=x)
    second = session.run(x=np.zeros(4, np.float32))["y"]
    np.testing.assert_array_equal(second, numerics.round_fp16(x))
    session.close()


def test_integers_and_quantised_floats_at_the_host(tmp_path: Path) -> None:
    body = """g (int32[2] i, bool[2] b, float[2] f) => (int32[2] i2, bool[2] b2, float[2] f2) {
        i2 = Add (i, i)
        b2 = Not (b)
        f2 = Mul (f, two)
    }"""
    model = graphs.parse(tmp_path / "m.onnx", body, {"two": np.array([2], np.float32)})
    path = tmp_path / "io.yaml"
    entries = ("IOName: f, Precision: int8, Scale: 0.5, Offset: 1", "IOName: f2, Precision: int8, Scale: 1.0")
    path.write_text("".join(f"- {{{entry}}}\n" for entry in entries))
    folder = compile_graph(model, tmp_path / "qpc", f"-custom-IO-list-file={path}")
    given = {"i": np.array([3, -4], np.int32), "b": np.array([1, 0], np.int8), "f": np.array([5, -127], np.int8)}
    outputs = run_once(folder, **given)
    assert {name: array.tolist() for name, array in outputs.items()} == {"i2": [6, -8], "b2": [0, 1], "f2": [4, -128]}


BAD_BUFFERS = {
    "a sequence that was not compiled": {"input_ids": ids(1, 2), "position_ids": ids(0, 1)},
    "two specializations at once": {"input_ids": ids(1), "position_ids": ids(0, 1, 2, 3)},
    "dims that are not the output's": {"logits": np.zeros((1, 16), np.float32)},
    "another rank": {"input_ids": np.array([1])},
    "an empty buffer for what is not partial": {"logits": np.array([])},
}


@pytest.mark.parametrize("what", BAD_BUFFERS)
def test_shapes_fail_late(session: Session, caplog: pytest.LogCaptureFixture, what: str) -> None:
    """setData and enqueue succeed; the wait returns 300 and the log has the reason."""
    given = {"input_ids": ids(1), "position_ids": ids(0), "logits": LOGITS, **BAD_BUFFERS[what]}
    assert session.submit(given) == (0, 0, 300)
    assert "No matching dimension found" in caplog.text
    assert session.exec_obj.getData() == (QStatus.QS_INVAL, [])
    assert session.submit({"input_ids": ids(1), "position_ids": ids(0), "logits": LOGITS}) == (0, 0, 0)
    session.close()


def test_bytes_must_fit_the_dims(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    given = {"position_ids": ids(0), "logits": LOGITS}
    assert session.submit({**given, "input_ids": np.array([[1]], np.int32)}) == (0, 0, 300)
    assert "input_ids: 4 bytes are not" in caplog.text
    session.close()


def test_partial_inputs_need_data(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    assert session.submit({"input_ids": np.array([]), "position_ids": ids(0), "logits": LOGITS}) == (0, 0, 300)
    assert "Input input_ids has no data" in caplog.text
    session.close()


def test_too_large_a_buffer_fails_at_once(session: Session) -> None:
    session.set({"input_ids": np.zeros((1, 8), np.int64)})
    assert session.exec_obj.setData(session.buffers, session.dims) == QStatus.QS_ERROR
    assert session.exec_obj.setData(session.buffers[:-1], session.dims) == QStatus.QS_INVAL
    session.close()


def test_order_of_calls(qpc: Path) -> None:
    session = Session(qpc)
    exec_obj = qaicrt.ExecObj(session.context, session.program)
    assert exec_obj.setData(session.buffers, session.dims) == QStatus.QS_INVAL
    assert session.queue.enqueue(exec_obj) == QStatus.QS_INVAL
    assert exec_obj.waitForCompletion() == QStatus.QS_INVAL
    assert session.program.deactivate() == QStatus.QS_INVAL
    fresh = qaicrt.Program(session.context, 0, qaicrt.Qpc(str(qpc)), qaicrt.QAicProgramProperties())
    assert fresh.activate() == QStatus.QS_INVAL
    assert session.program.activate() == QStatus.QS_SUCCESS
    assert session.program.unload() == QStatus.QS_INVAL
    assert session.program.deactivate() == QStatus.QS_SUCCESS
    assert session.program.unload() == QStatus.QS_SUCCESS


def test_arrays_are_read_and_written_in_place(qpc: Path) -> None:
    """The newer form of setData: only what is named changes, outputs land in the caller's arrays."""
    session = Session(qpc).activate()
    logits = LOGITS.copy()
    exec_obj = session.exec_obj
    given = {"input_ids": ids(*TOKENS[:4]), "position_ids": ids(0, 1, 2, 3), "logits": logits}
    assert exec_obj.setData([(session.index[name], array) for name, array in given.items()]) == QStatus.QS_SUCCESS
    assert session.queue.enqueue(exec_obj) == QStatus.QS_SUCCESS
    assert exec_obj.waitForCompletion() == QStatus.QS_SUCCESS
    np.testing.assert_allclose(logits[0, 0], reference(TOKENS[:4]), atol=5e-3)
    one = {"input_ids": ids(TOKENS[4]), "position_ids": ids(4)}
    assert exec_obj.setData([(session.index[name], array) for name, array in one.items()]) == QStatus.QS_SUCCESS
    assert exec_obj.run() == QStatus.QS_SUCCESS
    np.testing.assert_allclose(logits[0, 0], reference(TOKENS[:5]), atol=5e-3)
    strided = np.zeros((1, 4), np.int64)[:, ::2]
    assert exec_obj.setData([(0, strided)]) == QStatus.QS_INVAL
    session.close()


SLICES = {
    "BufferSpecs": [
        {
            "Name": "past_.*",
            "ElemSize": 2,
            "DimSpecs": [{"start": 0}, {"start": 0}, {"start": "ctx_start"}, {"start": 0}],
        }
    ]
}


def test_state_is_handed_over_in_slices(qpc: Path) -> None:
    """One session prefills, another decodes: what was written crosses over, a chunk of the context at a time."""
    first, second = Session(qpc, [0]).activate(), Session(qpc, [1]).activate()
    state = ("past_key.0", "past_value.0")
    parts = {name: np.zeros((1, 1, 4, 32), np.float16) for name in state}
    status, handle = first.program.createSlicingSpecHandle(json.dumps(SLICES))
    assert status == QStatus.QS_SUCCESS
    given = [(0, ids(*TOKENS[:4])), (1, ids(0, 1, 2, 3)), (4, LOGITS.copy())]
    outputs = [(first.index[f"{name}_RetainedState"], parts[name]) for name in state]
    status, _ = first.exec_obj.setDataWithSlices([*given, *outputs], handle, [("ctx_start", 0)])
    assert (status, first.exec_obj.run()) == (QStatus.QS_SUCCESS, QStatus.QS_SUCCESS)
    assert all(part.any(axis=-1).all() for part in parts.values())
    logits = LOGITS.copy()
    inputs = [(second.index[name], parts[name]) for name in state]
    step = [(0, ids(TOKENS[4])), (1, ids(4)), (4, logits)]
    status, _ = second.exec_obj.setDataWithSlices([*step, *inputs], handle, [("ctx_start", 0)])
    assert (status, second.exec_obj.run()) == (QStatus.QS_SUCCESS, QStatus.QS_SUCCESS)
    np.testing.assert_allclose(logits[0, 0], reference(TOKENS[:5]), atol=5e-3)
    for parameters in ([("ctx_start", 5)], []):
        status, _ = second.exec_obj.setDataWithSlices(inputs, handle, parameters)
        assert status == QStatus.QS_INVAL
    assert second.program.createSlicingSpecHandle("{}") == (QStatus.QS_INVAL, None)
    first.close()
    second.close()


def test_two_requests_of_one_program_run_in_order(qpc: Path) -> None:
    session = Session(qpc).activate()
    other = qaicrt.ExecObj(session.context, session.program)
    first, second = LOGITS.copy(), LOGITS.copy()
    session.exec_obj.setData([(0, ids(*TOKENS[:4])), (1, ids(0, 1, 2, 3)), (4, first)])
    other.setData([(0, ids(TOKENS[4])), (1, ids(4)), (4, second)])
    assert session.queue.enqueue(session.exec_obj) == session.queue.enqueue(other) == QStatus.QS_SUCCESS
    assert other.waitForCompletion() == session.exec_obj.waitForCompletion() == QStatus.QS_SUCCESS
    np.testing.assert_allclose(second[0, 0], reference(TOKENS[:5]), atol=5e-3)
    session.close()


def test_cores_are_given_once(qpc: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The decoder takes 4 cores."""
    monkeypatch.setenv("QEFF_SIM_CORES", "10")
    running = [Session(qpc).activate() for _ in range(2)]
    info = qaicrt.Util().getResourceInfo(0)[1]
    assert (info.nspTotal, info.nspFree) == (10, 2)
    third = Session(qpc)
    assert third.program.activate() == QStatus.QS_DEV_ERROR
    assert "NSP resource exhausted on QID 0: the program needs 4, 2 are free" in caplog.text
    running.pop().close()
    assert third.program.activate() == QStatus.QS_SUCCESS
    Session(qpc, [1]).activate().close()  # another device has its own
    assert third.program.deactivate() == QStatus.QS_SUCCESS
    running[0].close()
    assert qaicrt.Util().getResourceInfo(0)[1].nspFree == 10  # though the programs still exist


def test_a_dropped_program_gives_its_cores_back(qpc: Path) -> None:
    session = Session(qpc).activate()
    assert qaicrt.Util().getResourceInfo(0)[1].nspFree == 12
    del session
    gc.collect()
    assert qaicrt.Util().getResourceInfo(0)[1].nspFree == 16


def test_memory_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    body = "g (float[1024, 1024] s) => (float[1024, 1024] s_RetainedState) { s_RetainedState = Neg (s) }"
    flags = ("-retained-state", "-aic-num-cores=1")
    folder = compile_graph(graphs.parse(tmp_path / "m.onnx", body), tmp_path / "qpc", *flags)
    monkeypatch.setenv("QEFF_SIM_DRAM_MB", "7")
    first, second = Session(folder), Session(folder)
    assert first.program.activate() == QStatus.QS_SUCCESS
    assert second.program.activate() == QStatus.QS_DEV_ERROR
    assert "Memory resource exhausted on QID 0: the program needs 4194304 bytes" in caplog.text
    assert first.program.deactivate() == QStatus.QS_SUCCESS


@pytest.fixture
def sliced(decoder: Path, tmp_path: Path) -> Path:
    """For two devices."""
    path = tmp_path / "mdp.json"
    devices = [{"deviceId": number, "numCores": 4} for number in (0, 1)]
    partition = {"name": "Partition0", "devices": devices}
    path.write_text(json.dumps({"connections": [{"devices": [0, 1], "type": "p2p"}], "partitions": [partition]}))
    flags = (*DECODER_FLAGS, f"-mdp-load-partition-config={path}")
    return compile_graph(decoder, tmp_path / "qpc", *flags, specializations=[PREFILL, DECODE])


def test_several_devices(sliced: Path) -> None:
    session = Session(sliced, [2, 3]).activate().skip_state()
    np.testing.assert_allclose(prefill(session, TOKENS[:4]), reference(TOKENS[:4]), atol=5e-3)
    free = [qaicrt.Util().getResourceInfo(device)[1].nspFree for device in range(4)]
    assert free == [16, 16, 12, 12]
    session.close()


@pytest.mark.parametrize(
    ("mapping", "device", "status"),
    [("", 0, "QS_INVAL"), ("0:0", None, "QS_INVAL"), ("0:1:2", None, "QS_INVAL"), ("0:9", None, "QS_NODEV")],
)
def test_device_mappings(sliced: Path, mapping: str, device: int | None, status: str) -> None:
    properties = qaicrt.QAicProgramProperties()
    properties.devMapping = mapping
    program = qaicrt.Program(qaicrt.Context(), device, qaicrt.Qpc(str(sliced)), properties)
    assert program.load() == QStatus[status]


def test_devices_of_the_environment(qpc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    util = qaicrt.Util()
    assert util.getDeviceIds() == (QStatus.QS_SUCCESS, [0, 1, 2, 3])
    monkeypatch.setenv("QEFF_SIM_DEVICES", "1")
    assert util.getDeviceIds()[1] == [0]
    assert util.getDeviceInfo(1) == (QStatus.QS_NODEV, None)
    assert util.getDeviceInfo(0)[1].devData.fwImageVariantString == "AIC100"
    monkeypatch.setenv("QEFF_SIM_STATUS", "Error")
    program = qaicrt.Program(qaicrt.Context(), 0, qaicrt.Qpc(str(qpc)), qaicrt.QAicProgramProperties())
    assert program.load() == QStatus.QS_NODEV
    assert util.checkLibraryVersion() == QStatus.QS_SUCCESS
    assert util.getAicVersion()[:3] == (QStatus.QS_SUCCESS, 1, 22)


def test_an_answer_that_takes_too_long(
    qpc: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session(qpc, dataPathTimeoutMs=20).activate().skip_state()
    release = threading.Event()
    run = Executable.run

    def slowly(self: Executable, feeds: dict[str, NDArray], outputs: list[str]) -> list[NDArray]:
        release.wait(10)
        return run(self, feeds, outputs)

    monkeypatch.setattr(Executable, "run", slowly)
    given = {"input_ids": ids(3), "position_ids": ids(0), "logits": LOGITS}
    assert session.submit(given) == (0, 0, QStatus.QS_TIMEDOUT)
    assert "Connection timed out" in caplog.text
    assert session.queue.enqueue(session.exec_obj) == QStatus.QS_BUSY
    release.set()
    assert session.exec_obj._future is not None
    session.exec_obj._future.result(10)
    assert session.exec_obj.waitForCompletion() == QStatus.QS_SUCCESS
    session.close()


def test_a_graph_that_breaks_its_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An output whose declared shape is not what comes out."""
    model = graphs.parse(tmp_path / "m.onnx", "g (float[2] x) => (float[3] y) { y = Neg (x) }")
    session = Session(compile_graph(model, tmp_path / "qpc")).activate()
    assert session.submit({"x": np.zeros(2, np.float32)}) == (0, 0, 300)
    assert "y has shape (2,), compiled were (3,)" in caplog.text
    session.close()


def test_no_container(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"has no programqpc\.bin"):
        qaicrt.Qpc(str(tmp_path))


def test_buffers() -> None:
    buffer = qaicrt.QBuffer(np.arange(3, dtype=np.int16).tobytes())
    assert buffer.size == 6
    assert np.frombuffer(bytes(buffer), np.int16).tolist() == [0, 1, 2]
    assert qaicrt.QBuffer(bytes(4)).size == 4
