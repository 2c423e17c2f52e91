"""What is loaded is what was checked: one list of weight files, inside the folder and safetensors by content."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from click.testing import CliRunner
from safetensors.torch import load, load_file, save_file
from transformers import AutoModelForCausalLM

from QEfficient import QEFFAutoModel, QEFFAutoModelForCausalLM, QEFFCommonLoader
from QEfficient.cloud.inspect import command as inspect
from QEfficient.errors import CheckpointError, CheckpointNotFound, CorruptCheckpoint, UnsafeCheckpoint
from QEfficient.transformers.checkpoint import load as loader
from QEfficient.transformers.checkpoint.load import load_model, load_skeleton
from QEfficient.transformers.checkpoint.weight_files import read_header

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tiny_models.causal_lm("llama"), tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "checkpoint"))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Another model's weights, beside the checkpoint."""
    (tmp_path / "other").mkdir()
    return tiny_models.save(tiny_models.causal_lm("llama", seed=1), tmp_path / "other") / "model.safetensors"


def write_index(folder: Path, weight_map: object, **more: object) -> None:
    content = {"metadata": {}, "weight_map": weight_map, **more}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def shard(folder: Path, name: str = "part.safetensors") -> list[str]:
    """Rename the whole file to one that an index has to name; returns the names of its tensors."""
    (folder / "model.safetensors").rename(folder / name)
    return sorted(read_header(folder / name).tensors) if name.endswith(".safetensors") else [Q_PROJ]


def is_refused(folder: Path, error: type[CheckpointError], *words: str, by_inspect: bool = True) -> None:
    """By every way that loads a checkpoint, and by ``inspect``."""
    ways: list[Callable[[], Any]] = [
        lambda: QEFFAutoModelForCausalLM.from_pretrained(folder),
        lambda: QEFFAutoModel.from_pretrained(folder),
        lambda: QEFFCommonLoader.from_pretrained(folder),
        lambda: load_model(AutoModelForCausalLM, folder),
    ]
    if by_inspect:
        ways.append(lambda: CliRunner().invoke(inspect, [str(folder)], catch_exceptions=False))
    for way in ways:
        with pytest.raises(error) as caught:
            way()
        for word in words:
            assert word in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../other/model.safetensors", "sub/../../other/model.safetensors", "..\\x.safetensors"]
)
def test_index_names_a_file_outside(folder: Path, outside: Path, name: str) -> None:
    write_index(folder, dict.fromkeys(shard(folder), name))
    is_refused(folder, UnsafeCheckpoint, "outside")


def test_index_names_an_absolute_path(folder: Path, outside: Path) -> None:
    write_index(folder, dict.fromkeys(shard(folder), str(outside)))
    is_refused(folder, UnsafeCheckpoint, "outside")


def test_index_names_a_pickle(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (canary,))

    torch.save({"x": Payload()}, folder / "w.bin")
    write_index(folder, dict.fromkeys(shard(folder), "w.bin"))
    is_refused(folder, UnsafeCheckpoint, "w.bin", "safetensors")
    assert not canary.exists()


def test_pickle_called_safetensors(folder: Path) -> None:
    torch.save({"x": torch.ones(2)}, folder / "model.safetensors")
    is_refused(folder, CorruptCheckpoint, "model.safetensors", "no safetensors file")


def test_config_names_the_file_to_load(folder: Path, outside: Path) -> None:
    """transformers takes ``transformers_weights`` of a config for the file, ``adapter_model.bin`` too."""
    torch.save(load_file(outside), folder / "adapter_model.bin")
    config = json.loads((folder / "config.json").read_text())
    expected = QEFFAutoModelForCausalLM.from_pretrained(folder).model.state_dict()
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "adapter_model.bin"}))
    loaded = QEFFAutoModelForCausalLM.from_pretrained(folder).model.state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_link_out_of_the_folder(folder: Path, outside: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(outside)
    is_refused(folder, UnsafeCheckpoint, "model.safetensors", "outside")


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json", "chat_template.jinja", "vocab.txt"])
def test_side_file_is_a_link_out_of_the_folder(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("{}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "secret")
    is_refused(folder, UnsafeCheckpoint, name, "outside")


def test_config_is_a_link_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").rename(tmp_path / "config.json")
    (folder / "config.json").symlink_to(tmp_path / "config.json")
    is_refused(folder, UnsafeCheckpoint, "config.json", "outside")


def in_cache(whole: Path, root: Path) -> Path:
    """A snapshot of ``whole`` as the Hub's cache keeps it."""
    snapshot, blobs = root / "models--a--b" / "snapshots" / ("0" * 40), root / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(whole.iterdir())):
        shutil.copyfile(path, blobs / str(number))
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", str(number)))
    return snapshot


def test_links_of_the_hubs_cache_are_loaded(whole: Path, tmp_path: Path) -> None:
    snapshot = in_cache(whole, tmp_path)
    assert QEFFAutoModelForCausalLM.from_pretrained(snapshot).model.config.vocab_size == 320
    (tmp_path / "link").symlink_to(snapshot)  # a folder that is a link is where it leads
    assert QEFFAutoModelForCausalLM.from_pretrained(tmp_path / "link").model.config.vocab_size == 320


def test_link_to_another_repository_of_the_cache(whole: Path, tmp_path: Path) -> None:
    snapshot = in_cache(whole, tmp_path)
    other = tmp_path / "models--c--d" / "blobs"
    other.mkdir(parents=True)
    shutil.copyfile(whole / "model.safetensors", other / "0")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(other / "0")
    is_refused(snapshot, UnsafeCheckpoint, "outside")


def test_links_that_go_round(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("model.safetensors")
    is_refused(folder, CheckpointError)


@pytest.mark.parametrize("weight_map", [{}, [], None, "x", {"a": 1}, {"a": None}, {"a": ["b"]}, {"a": ""}])
def test_index_of_wrong_types(folder: Path, weight_map: object) -> None:
    shard(folder)
    write_index(folder, weight_map)
    is_refused(folder, CheckpointError, "model.safetensors.index.json" if weight_map != {"a": ""} else "")


@pytest.mark.parametrize("content", ["", "[]", "{", "1", "[" * 100_000, '{"weight_map": ' + "9" * 5000 + "}"])
def test_index_that_is_none(folder: Path, content: str) -> None:
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    is_refused(folder, CorruptCheckpoint, "model.safetensors.index.json")


def test_missing_shard(folder: Path) -> None:
    names = shard(folder)
    write_index(folder, dict.fromkeys(names, "part.safetensors") | {names[0]: "gone.safetensors"})
    is_refused(folder, CorruptCheckpoint, "gone.safetensors", by_inspect=False)
    assert CliRunner().invoke(inspect, [str(folder)], catch_exceptions=False).exit_code == 0  # needs no weights


def test_weights_are_a_folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    is_refused(folder, CorruptCheckpoint, "model.safetensors is not a file")


def test_files_that_no_index_names_are_not_loaded(folder: Path, outside: Path) -> None:
    shutil.copyfile(outside, folder / "adapter_model.safetensors")
    (folder / "model.safetensors").unlink()
    is_refused(folder, CheckpointNotFound, "no weights", by_inspect=False)


def header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + size])
    changed = json.dumps(change(entries) or entries).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + size :])


HEADERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "metadata of numbers": lambda entries: entries.update({"__metadata__": {"a": 1}}),
    "metadata that is a list": lambda entries: entries.update({"__metadata__": []}),
    "no offsets": lambda entries: entries[Q_PROJ].pop("data_offsets") and None,
    "a list": lambda entries: entries | {Q_PROJ: [1, 2]},
    "a number": lambda entries: entries | {Q_PROJ: 1},
    "offsets of text": lambda entries: entries[Q_PROJ].update(data_offsets=["0", "1"]),
    "three offsets": lambda entries: entries[Q_PROJ].update(data_offsets=[0, 1, 2]),
    "negative": lambda entries: entries[Q_PROJ].update(data_offsets=[-4, 0]),
    "huge": lambda entries: entries[Q_PROJ].update(data_offsets=[0, 2**62]),
    "overlapping": lambda entries: entries[Q_PROJ].update(data_offsets=[0, 64 * 64 * 4]),
    "shape of text": lambda entries: entries[Q_PROJ].update(shape=["64", "64"]),
    "shape of bools": lambda entries: entries[Q_PROJ].update(shape=[True, True]),
    "shape that overflows": lambda entries: entries[Q_PROJ].update(shape=[2**40, 2**40]),
    "dtype is a number": lambda entries: entries[Q_PROJ].update(dtype=5),
    "whole header a list": lambda entries: [1],
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS)
def test_header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    header(folder, change)
    is_refused(folder, CorruptCheckpoint, "model.safetensors")


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 120_000_000])
def test_size_of_a_header(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(size.to_bytes(8, "little") + path.read_bytes()[8:])
    is_refused(folder, CorruptCheckpoint, "model.safetensors")


@pytest.mark.parametrize("dtype", ["I32", "U32"])
@pytest.mark.parametrize("weight", [Q_PROJ, "model.norm.weight", "model.embed_tokens.weight"])
def test_float_weight_declared_as_integers(folder: Path, dtype: str, weight: str) -> None:
    header(folder, lambda entries: entries[weight].update(dtype=dtype))
    is_refused(folder, CorruptCheckpoint, weight, dtype, by_inspect=False)


def test_integers_that_become_a_merged_weight(tmp_path: Path) -> None:
    """The experts of a file are one parameter of the model."""
    folder = tiny_models.save(tiny_models.causal_lm("mixtral"), tmp_path)
    tensors = load((folder / "model.safetensors").read_bytes())
    name = next(name for name in tensors if "experts" in name)
    tensors[name] = tensors[name].view(torch.int32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CorruptCheckpoint, match="I32"):
        load_skeleton(AutoModelForCausalLM, folder)


def test_whole_numbers_stay_where_the_model_has_them(tmp_path: Path) -> None:
    model = tiny_models.encoder()
    folder = tiny_models.save(model, tmp_path)
    tensors = load((folder / "model.safetensors").read_bytes())
    tensors["embeddings.position_ids"] = torch.arange(512)[None]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert QEFFAutoModel.from_pretrained(folder).model.config.hidden_size == 64


def test_loading_changes_nothing_for_other_threads(
    folder: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that loads with transformers meanwhile gets its files."""
    expected = load_file(outside)[Q_PROJ]
    loaded: list[torch.Tensor] = []

    def other() -> None:
        loaded.append(AutoModelForCausalLM.from_pretrained(outside.parent).state_dict()[Q_PROJ])

    check = loader.safe_open

    def meanwhile(*args: Any, **options: Any) -> Any:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return check(*args, **options)

    monkeypatch.setattr(loader, "safe_open", meanwhile)
    ours = load_model(AutoModelForCausalLM, folder).state_dict()[Q_PROJ]
    assert torch.equal(loaded[0], expected)
    assert not torch.equal(ours, expected)
