"""A package by a stranger: its seal is right, and everything else is read as data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from click.testing import CliRunner
from lora_adapters import write_adapter
from safetensors.numpy import save

from QEfficient import (
    QEFFAutoLoraModelForCausalLM,
    QEFFAutoModel,
    QEFFAutoModelForCausalLM,
    QEFFAutoModelForSequenceClassification,
    QEFFAutoPeftModelForCausalLM,
)
from QEfficient.cloud.execute import command as execute
from QEfficient.errors import (
    ArtifactError,
    CapacityError,
    CorruptArtifact,
    QEffError,
    TargetUnavailable,
)
from QEfficient.generation.package import from_package
from QEfficient.store.digests import hash_file
from QEfficient.store.manifest import MANIFEST_NAME, FileRecord, read_artifact

pytestmark = pytest.mark.xdist_group("fault packages")
IDS = [5, 6, 7]
Body = dict[str, Any]
ADAPTED = (QEFFAutoLoraModelForCausalLM, QEFFAutoPeftModelForCausalLM)
ADAPTERS = [{"name": name, "digest": ""} for name in ("a", "b", "base")]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A package of each task and target, in folders of its own."""
    root, tokenizer = tmp_path_factory.mktemp("packages"), tiny_models.tiny_tokenizer()
    decoder = QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama"), tokenizer=tokenizer)
    encoder = QEFFAutoModel(tiny_models.encoder(), tokenizer=tokenizer)
    classifier = QEFFAutoModelForSequenceClassification(tiny_models.classifier(2), tokenizer=tokenizer)
    options: dict[str, Any] = {"target": "cpu", "precision": "fp32"}
    adapter = write_adapter(root / "adapter", decoder.model, "q_proj", 2)
    selecting, turning = (cls(decoder.model, tokenizer=tokenizer) for cls in ADAPTED)
    for model in (selecting, turning):
        model.load_adapter(adapter, "a")
    return {
        "selecting": selecting.compile(root / "selecting", ctx_len=32, **options),
        "turning": turning.compile(root / "turning", ctx_len=32, **options),
        "paged": decoder.compile(root / "paged", ctx_len=32, full_batch_size=2, **options),
        "retained": decoder.compile(root / "retained", ctx_len=32, lowering="retained", **options),
        "card": decoder.compile(root / "card", target="cloud-ai-100-sim", ctx_len=32, prefill_seq_len=8),
        "encoder": encoder.compile(root / "encoder", seq_len=16, **options),
        "classifier": classifier.compile(root / "classifier", seq_len=16, **options),
    }


Change = Callable[[str, Callable[[Body], Any]], Path]


@pytest.fixture
def changed(sources: dict[str, Path], tmp_path: Path) -> Change:
    """A copy of a package with another body, and a seal that fits it."""

    def change(name: str, edit: Callable[[Body], Any]) -> Path:
        folder = Path(shutil.copytree(sources[name], tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"))
        manifest = read_artifact(folder).manifest
        body = json.loads(json.dumps(manifest.body))
        body = edit(body) or body
        (folder / MANIFEST_NAME).write_text(replace(manifest, body=body).to_json())
        return folder

    return change


def run(folder: Path) -> None:
    """Open a package and run it."""
    with from_package(folder) as compiled:
        compiled.generate([IDS])  # type: ignore[attr-defined]


def is_refused(folder: Path, error: type[QEffError] = CorruptArtifact) -> None:
    """By Python and by the command."""
    with pytest.raises(error):
        run(folder)
    assert isinstance(CliRunner().invoke(execute, [str(folder), "-p", "x"]).exception, error)


def at(*path: str, value: Any) -> Callable[[Body], None]:
    """Set a value of the body, or drop it."""

    def edit(body: Body) -> None:
        inner = body
        for name in path[:-1]:
            inner = inner[name]
        if value is DROP:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value

    return edit


DROP = object()
WRONG: list[tuple[str, Callable[[Body], Any]]] = [
    *(("paged", at("session", name, value=v))
      for name in ("num_slots", "ctx_len", "vocab_size", "state_rows", "chunk_len")
      for v in ("1", 0, -1, True, None, [1], 1.5, 2**80)),
    *(("paged", at(name, value=v)) for name in ("task", "target", "session", "graphs", "open", "lowering", "options")
      for v in (DROP, [], "x", 5, None)),
    ("paged", at("session", "windows", value={"x": 0})),
    ("paged", at("session", "state_rows", value=1)),
    ("paged", at("session", "chunk_len", value=10**6)),
    ("paged", at("lowering", value="encoder")),
    ("paged", at("open", "num_devices", value=10**9)),
    ("paged", at("open", "num_threads", value=0)),
    ("paged", at("open", "precision", value="fp8")),
    ("paged", at("graphs", value={})),
    ("paged", lambda body: body["graphs"].update(other=body["graphs"]["model"])),
    ("paged", at("graphs", "model", "folder", value="../paged")),
    ("paged", at("graphs", "model", "folder", value="/")),
    ("paged", at("graphs", "model", "inputs", value={})),
    ("paged", at("graphs", "model", "outputs", value={})),
    ("paged", at("graphs", "model", "outputs", "logits", "shape", value=[])),
    ("paged", at("graphs", "model", "inputs", "input_ids", "shape", value=[-2, 1])),
    ("paged", at("graphs", "model", "inputs", "input_ids", "shape", value=[1, 2])),
    ("encoder", at("session", "inputs", "seq_lens", value=[])),
    ("encoder", at("session", "inputs", "seq_lens", value=[16, 8])),
    ("encoder", at("session", "inputs", "batch_size", value=0)),
    ("encoder", at("session", "inputs", "padding_side", value="top")),
    ("encoder", at("lowering", value="paged")),
    ("encoder", at("task", value="causal_lm")),
    ("classifier", at("session", "labels", value=["a"])),
    ("classifier", at("session", "labels", value=[])),
    ("classifier", at("session", "problem_type", value="x")),
    ("card", at("open", "num_devices", value=10**9)),
    ("card", at("lowering", value="paged")),
    ("card", at("session", "ctx_len", value=16)),
    ("paged", at("session", "adapters", value=ADAPTERS[:1])),
    ("paged", at("session", "takes_turns", value=True)),
    ("retained", at("session", "adapters", value=ADAPTERS[:1])),
    ("selecting", at("session", "adapters", value=[])),
    ("selecting", at("session", "adapters", value=ADAPTERS[1:])),
    ("selecting", at("session", "adapters", value=ADAPTERS[:1] * 2)),
    ("selecting", at("session", "takes_turns", value=True)),
    ("turning", at("session", "takes_turns", value=False)),
    ("turning", at("session", "adapters", value=[])),
]  # fmt: skip


@pytest.mark.parametrize(("name", "edit"), WRONG, ids=range(len(WRONG)))
def test_body(changed: Change, name: str, edit: Callable[[Body], Any]) -> None:
    is_refused(changed(name, edit), ArtifactError)


@pytest.mark.parametrize("name", ["paged", "retained", "card"])
@pytest.mark.parametrize("size", [100, 321, 10**6])
def test_vocabulary_is_that_of_the_program(changed: Change, name: str, size: int) -> None:
    def edit(body: Body) -> None:
        body["session"]["vocab_size"] = size
        body["graphs"]["model"]["outputs"]["logits"]["shape"][-1] = size

    is_refused(changed(name, edit))
    is_refused(changed(name, at("session", "vocab_size", value=size)))


@pytest.mark.parametrize("name", ["paged", "retained"])
def test_slots_that_no_memory_holds(changed: Change, name: str) -> None:
    def edit(body: Body) -> None:
        body["session"].update(num_slots=10**12, state_rows=10**12)

    is_refused(changed(name, edit), CapacityError)


def test_devices_that_are_not_there(changed: Change) -> None:
    is_refused(changed("card", at("open", "num_devices", value=1000)), TargetUnavailable)


@pytest.mark.parametrize("names", [("x",), ("input_ids", "attention_mask", "x")])
def test_inputs_that_the_program_does_not_have(changed: Change, names: tuple[str, ...]) -> None:
    binding = {"dtype": "i64", "shape": [-1, -1], "axes": []}
    is_refused(changed("encoder", at("graphs", "model", "inputs", value=dict.fromkeys(("input_ids", *names), binding))))


SIDE_FILES: dict[str, list[str]] = {
    "generation_config.json": [
        "[]", "1", "[[1]]", "{", "[" * 100_000, '{"eos_token_id": "x"}', '{"eos_token_id": [1, "x"]}',
        '{"eos_token_id": true}', '{"max_new_tokens": -1}', '{"max_new_tokens": "x"}', '{"max_new_tokens": 1.5}',
        '{"bad_words_ids": [[320]]}', '{"bad_words_ids": [[]]}', '{"bad_words_ids": [5]}',
        '{"do_sample": "no"}', '{"repetition_penalty": "1"}', '{"temperature": [1]}', '{"top_k": 1.5}',
    ],
    "tokenizer/tokenizer.json": ["{", "{}", "[]", "[" * 100_000, '{"model": 5}', '{"version": "1.0", "model": {}}'],
    "tokenizer/tokenizer_config.json": [
        "{", "[]", "5", '{"bos_token": 5}', '{"eos_token": {"text": "x"}}', "[" * 100_000,
    ],
}  # fmt: skip
FILES = [(name, content) for name, contents in SIDE_FILES.items() for content in contents]


@pytest.mark.parametrize(("name", "content"), FILES, ids=range(len(FILES)))
def test_side_file(sources: dict[str, Path], tmp_path: Path, name: str, content: str) -> None:
    folder = reseal(sources["paged"], tmp_path / "copy", name, content.encode())
    with pytest.raises(CorruptArtifact), from_package(folder) as compiled:
        compiled.generate("text")  # type: ignore[attr-defined]


def test_side_file_that_is_not_utf8(sources: dict[str, Path], tmp_path: Path) -> None:
    for name in ("generation_config.json", "tokenizer/tokenizer_config.json", "tokenizer/chat_template.jinja"):
        folder = reseal(sources["paged"], tmp_path / name.replace("/", "-"), name, b"\xff\xfe{}")
        with pytest.raises(CorruptArtifact), from_package(folder) as compiled:
            compiled.generate("text")  # type: ignore[attr-defined]


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"other"])
def test_matrices_of_an_adapter(sources: dict[str, Path], tmp_path: Path, content: bytes) -> None:
    if content == b"other":
        content = save({"base_model.model.x.lora_A.weight": np.zeros((2, 2), np.float32)})
    is_refused(reseal(sources["turning"], tmp_path / "copy", "adapters/0.safetensors", content))


def reseal(source: Path, copy: Path, name: str, content: bytes) -> Path:
    """A copy of a package with another side file, which its manifest lists."""
    shutil.copytree(source, copy)
    (copy / name).write_bytes(content)
    manifest = read_artifact(copy).manifest
    files = {**manifest.files, name: FileRecord(len(content), hash_file(copy / name)[0])}
    (copy / MANIFEST_NAME).write_text(replace(manifest, files=files).to_json())
    return copy
