"""Options that touch the machine come from whoever opens a package, never from the package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import tiny_models
from click.testing import CliRunner

from QEfficient import QEFFAutoModel, QEFFAutoModelForCausalLM
from QEfficient.cloud.execute import command as execute
from QEfficient.contract import PackageBody
from QEfficient.errors import CapacityError, CompileError, CorruptArtifact, OptionError, QEffError
from QEfficient.generation.package import from_package
from QEfficient.simulator.container import read_container, read_segment, write_container
from QEfficient.simulator.description import GRAPH, OPTIONS
from QEfficient.store.digests import hash_file
from QEfficient.store.manifest import MANIFEST_NAME, FileRecord, read_artifact
from QEfficient.store.records import read_record

pytestmark = pytest.mark.xdist_group("fault packages")
IDS = [5, 6, 7]
CPU: dict[str, Any] = {"target": "cpu", "precision": "fp32"}
Body = dict[str, Any]


@pytest.fixture(scope="module")
def decoder() -> QEFFAutoModelForCausalLM:
    return QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama"), tokenizer=tiny_models.tiny_tokenizer())


@pytest.fixture(scope="module")
def sources(decoder: QEFFAutoModelForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("packages")
    encoder = QEFFAutoModel(tiny_models.encoder(), tokenizer=tiny_models.tiny_tokenizer())
    return {
        "paged": decoder.compile(root / "paged", ctx_len=32, full_batch_size=2, **CPU),
        "retained": decoder.compile(root / "retained", ctx_len=32, lowering="retained", **CPU),
        "card": decoder.compile(root / "card", target="cloud-ai-100-sim", ctx_len=32, prefill_seq_len=8),
        "encoder": encoder.compile(root / "encoder", seq_len=16, **CPU),
    }


@pytest.fixture
def copied(sources: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(sources[name], tmp_path / name))


def seal(folder: Path, edit: Callable[[Body], None] = lambda body: None) -> Path:
    """Give a package a manifest that fits its files, and another body."""
    manifest = read_artifact(folder).manifest
    body = json.loads(json.dumps(manifest.body))
    edit(body)
    files = {name: FileRecord((folder / name).stat().st_size, hash_file(folder / name)[0]) for name in manifest.files}
    (folder / MANIFEST_NAME).write_text(replace(manifest, body=body, files=files).to_json())
    return folder


def is_refused(folder: Path, named: str, error: type[QEffError] = CorruptArtifact) -> None:
    with pytest.raises(error, match=named), from_package(folder) as compiled:
        compiled.generate([IDS])  # type: ignore[attr-defined]
    raised = CliRunner().invoke(execute, [str(folder), "-p", "x"]).exception
    assert isinstance(raised, error)


@pytest.mark.parametrize("name", ["paged", "retained", "encoder"])
def test_cache_of_a_package(copied: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside" / "a"
    folder = seal(copied(name), lambda body: body["open"].update(compiler_options={"CACHE_DIR": str(outside)}))
    is_refused(folder, "CACHE_DIR")
    assert not outside.parent.exists()


REFUSED: list[dict[str, Any]] = [
    {"DEVICE_PROPERTIES": {"CPU": {"CACHE_DIR": "x"}}},
    {"WEIGHTS_PATH": "x"},
    {"LOG_LEVEL": "LOG_DEBUG"},
    {"DEVICE_ID": "1"},
    {"NUM_STREAMS": 10**6},
    {"INFERENCE_NUM_THREADS": 10**9},
    {"ENABLE_CPU_PINNING": True},
    {"kv_cache_precision": "u8"},
    {"KV_CACHE_PRECISION": "u9"},
    {"KV_CACHE_PRECISION": 5},
    {"KV_CACHE_PRECISION": None},
    {"KEY_CACHE_GROUP_SIZE": -1},
    {"VALUE_CACHE_GROUP_SIZE": 2**40},
    {"DYNAMIC_QUANTIZATION_GROUP_SIZE": True},
    {"CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": 1.5},
    {"CPU_DENORMALS_OPTIMIZATION": "yes"},
]


@pytest.mark.parametrize("properties", REFUSED, ids=[json.dumps(each) for each in REFUSED])
def test_properties_of_a_package(copied: Callable[[str], Path], properties: dict[str, Any]) -> None:
    folder = seal(copied("paged"), lambda body: body["open"].update(compiler_options=properties))
    is_refused(folder, next(iter(properties)))


@pytest.mark.parametrize("properties", REFUSED, ids=[json.dumps(each) for each in REFUSED])
def test_the_same_at_compile(decoder: QEFFAutoModelForCausalLM, properties: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(properties))):
        decoder.compile(ctx_len=32, compiler_options=properties, **CPU)


def test_cache_of_the_caller(decoder: QEFFAutoModelForCausalLM, tmp_path: Path) -> None:
    """Applies where it is passed; what the package brings along stays beside it."""
    cache = tmp_path / "cache"
    with pytest.raises(OptionError, match=r"from_package"):
        decoder.compile(ctx_len=32, lowering="retained", compiler_options={"CACHE_DIR": str(cache)}, **CPU)
    options = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 64}
    package = decoder.compile(ctx_len=32, lowering="retained", compiler_options=options, **CPU)
    before = (package / MANIFEST_NAME).read_bytes()
    with from_package(package, compiler_options={"CACHE_DIR": str(cache)}) as compiled:
        assert compiled.opening().options.compiler_options == {**options, "CACHE_DIR": str(cache)}
        assert compiled.generate([IDS], generation_len=1)  # type: ignore[attr-defined]
    assert list(cache.iterdir())
    assert (package / MANIFEST_NAME).read_bytes() == before


@pytest.mark.parametrize("value", [object(), {"x": 1}, None, b"x"])
@pytest.mark.parametrize("name", ["paged", "retained"])
def test_values_of_the_caller_that_nothing_takes(sources: dict[str, Path], name: str, value: Any) -> None:
    with pytest.raises(CompileError, match="PERFORMANCE_HINT"):
        from_package(sources[name], compiler_options={"PERFORMANCE_HINT": value})


def test_flags_of_a_card_are_not_for_its_runtime(
    decoder: QEFFAutoModelForCausalLM, copied: Callable[[str], Path]
) -> None:
    folder = seal(copied("card"), lambda body: body["open"].update(compiler_options={"ols": 2}))
    is_refused(folder, "ols")
    options = {"compiler_options": {"verify_qpc": True}}
    package = decoder.compile(target="cloud-ai-100-sim", ctx_len=32, prefill_seq_len=8, **options)
    assert read_artifact(package).manifest.body["open"]["compiler_options"] == {}


def test_files_that_a_package_names_are_not_read(
    decoder: QEFFAutoModelForCausalLM, sources: dict[str, Path], own_home: Path
) -> None:
    """Where its graph is exported again, which depends on none of them."""
    body = read_artifact(sources["paged"]).manifest.body
    names = ("qnn_config", "mdp_load_partition_config", "node_precision_info")
    options = {**body["options"], **dict.fromkeys(names, "/etc/passwd"), "compiler_options": {"CACHE_DIR": "x"}}
    body = {**body, "options": options}
    assert decoder.exported_graph(read_record(PackageBody, body, "body")).is_file()


# Programs of simulated cards


def rewrite(folder: Path, name: str, edit: Callable[[bytes], bytes]) -> Path:
    """Another segment in a program, under a seal that fits."""
    path = folder / "qpc" / "programqpc.bin"
    segments = {each: read_segment(path, segment) for each, segment in read_container(path).items()}
    path.unlink()
    write_container(path, {**segments, name: edit(segments[name])})
    return seal(folder)


def with_options(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda text: json.dumps({**json.loads(text), **changes}).encode()


def with_shape(size: int) -> Callable[[bytes], bytes]:
    """All state of another size, also in the sums."""

    def edit(text: bytes) -> bytes:
        fields = json.loads(text)
        states = [binding for binding in fields["bindings"] if binding["is_state"]]
        for binding in states:
            binding["shapes"] = [[1, size, *shape[2:]] for shape in binding["shapes"]]
        inputs = [binding["shapes"][0] for binding in states if binding["is_input"]]
        fields["state_bytes"] = sum(2 * shape[0] * shape[1] * shape[2] * shape[3] for shape in inputs)
        return json.dumps(fields).encode()

    return edit


OPTIONS_OF_PROGRAMS: dict[str, Callable[[bytes], bytes]] = {
    "no devices": with_options(num_devices=0),
    "devices of text": with_options(num_devices="1"),
    "no cores": with_options(num_cores=-1),
    "no bindings": with_options(bindings=[]),
    "bindings of numbers": with_options(bindings=[1]),
    "negative bytes": with_options(state_bytes=-1),
    "bytes that are not those of its buffers": with_options(state_bytes=1),
    "state that becomes nothing": with_options(retained={}),
    "state that becomes something else": with_options(retained={"x": "y"}),
    "an unknown field": with_options(path="x"),
    "no JSON": lambda text: b"{",
    "not UTF-8": lambda text: b"\xff",
    "deep": lambda text: b"[" * 100_000,
}


@pytest.mark.parametrize("edit", OPTIONS_OF_PROGRAMS.values(), ids=OPTIONS_OF_PROGRAMS)
def test_description_of_a_program(copied: Callable[[str], Path], edit: Callable[[bytes], bytes]) -> None:
    is_refused(rewrite(copied("card"), OPTIONS, edit), "program")


def test_devices_that_no_machine_has(copied: Callable[[str], Path]) -> None:
    is_refused(rewrite(copied("card"), OPTIONS, with_options(num_devices=10**9)), "device_ids", OptionError)


def test_state_that_no_memory_holds(copied: Callable[[str], Path]) -> None:
    is_refused(rewrite(copied("card"), OPTIONS, with_shape(2**30)), "Out of memory", CapacityError)


def add_constant(location: str, offset: str = "0", *, inner: bool) -> Callable[[bytes], bytes]:
    """A constant that lies in a file: of a node, or of the graph."""

    def edit(content: bytes) -> bytes:
        model = onnx.load_model_from_string(content)
        tensor = onnx.TensorProto(name="strange", data_type=onnx.TensorProto.UINT8, dims=[8])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", "8")):
            tensor.external_data.add(key=key, value=value)
        if inner:
            model.graph.node.append(onnx.helper.make_node("Constant", [], ["strange"], value=tensor))
        else:
            model.graph.initializer.append(tensor)
        return model.SerializeToString()

    return edit


@pytest.mark.parametrize("location", ["/etc/passwd", "../manifest.json", "*/_ORT_MEM_ADDR_/*"])
def test_constant_in_a_file_of_the_programs_choice(copied: Callable[[str], Path], location: str) -> None:
    is_refused(rewrite(copied("card"), GRAPH, add_constant(location, inner=True)), "from a file")


@pytest.mark.parametrize("offset", ["x", "-1", "9" * 30, "99999999", ""])
def test_constant_outside_of_the_weights(copied: Callable[[str], Path], offset: str) -> None:
    edit = add_constant("sim_weights.bin", offset, inner=False)
    is_refused(rewrite(copied("card"), GRAPH, edit), "outside of its weights")


def test_graph_that_is_none(copied: Callable[[str], Path]) -> None:
    is_refused(rewrite(copied("card"), GRAPH, lambda content: b"\xff" * 64), "cannot be read")
