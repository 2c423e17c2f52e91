"""The artifact store under every fault of the compile-cache matrix."""

from __future__ import annotations

import ast
import errno
import hashlib
import json
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from QEfficient.errors import (
    ArtifactError,
    ArtifactNotFound,
    CompileError,
    CorruptArtifact,
    NewerFormat,
    OlderFormat,
    StorageError,
)
from QEfficient.store import digests, locks, publish
from QEfficient.store.artifacts import (
    ABSENT,
    FORMAT_VERSION,
    MANIFEST_NAME,
    Artifact,
    ArtifactStore,
    Built,
    FileRecord,
    Manifest,
    home,
    open_artifact,
    update_body,
    write_artifact,
)
from QEfficient.store.digests import digest
from QEfficient.store.entries import stored_bytes

REPOSITORY = Path(__file__).parents[2]
MODULES = ("artifacts", "digests", "entries", "files", "housekeeping", "locks", "manifest", "publish")
INGREDIENTS = {"weights": {"model.safetensors": "a1"}, "opset": 23, "options": {"ctx_len": 2048, "num_cores": 16}}


@pytest.fixture(autouse=True)
def library_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QEFF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def build(folder: Path) -> dict[str, Any]:
    """A small package: two files, one of them in a folder."""
    (folder / "qpcs").mkdir()
    (folder / "qpcs" / "programqpc.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    return {"target": "cpu", "specializations": [{"seq_len": 128}], "tolerance": 1.0}


def never(folder: Path) -> dict[str, Any]:
    raise AssertionError("built again")


def make(store: ArtifactStore, ingredients: Mapping[str, Any] = INGREDIENTS, label: str = "") -> Artifact:
    return store.get_or_build("package", ingredients, build, label=label)[0]


def folder_of(store: ArtifactStore, ingredients: Mapping[str, Any] = INGREDIENTS) -> Path:
    key = digest(ingredients)
    return store.root / "package" / key[:2] / key


def leftovers(root: Path) -> list[str]:
    """Temporary, old and damaged copies anywhere under ``root``."""
    return sorted(str(path.relative_to(root)) for path in root.rglob(".*.*-*") if "digests" not in path.parts)


def start(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Run ``code`` in a Python of its own, with the store's names imported."""
    header = "import os, sys, time\nfrom pathlib import Path\nfrom QEfficient.store.artifacts import *\n"
    return subprocess.Popen(
        [sys.executable, "-c", header + code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@contextmanager
def killed_at_the_end(child: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    with child:
        try:
            yield child
        finally:
            child.kill()


def line(child: subprocess.Popen[str]) -> str:
    """The next line that the child prints; its errors if it has died."""
    assert child.stdout is not None
    assert child.stderr is not None
    return child.stdout.readline().strip() or child.stderr.read()


# Hits, misses and keys


def test_built_once_then_found(store: ArtifactStore) -> None:
    assert store.get("package", INGREDIENTS) is None
    artifact, built = store.get_or_build("package", INGREDIENTS, build, label="Qwen", versions={"qaic": "1.20"})
    assert built
    again, built = store.get_or_build("package", INGREDIENTS, never)
    assert not built
    assert again == artifact == store.get("package", INGREDIENTS) == open_artifact(artifact.path)
    assert artifact.file("qpcs/programqpc.bin").stat().st_size == 256 * 40
    assert artifact.manifest.body == {"target": "cpu", "specializations": [{"seq_len": 128}], "tolerance": 1.0}
    assert artifact.manifest.label == "Qwen"
    assert artifact.manifest.versions.keys() == {"qefficient", "python", "qaic"}
    assert leftovers(store.root) == []


def test_lock_file_of_an_entry_stays(store: ArtifactStore) -> None:
    """Over NFS, two hosts could hold a lock whose file is deleted and made again."""
    folder = make(store).path
    assert (folder.parent / f".{folder.name}.lock").exists()
    store.prune(max_bytes=0)
    assert [path.name for path in folder.parent.iterdir()] == [f".{folder.name}.lock"]


def test_everything_is_on_the_disk_before_it_is_visible(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[object] = []
    fsync, rename = os.fsync, os.rename

    def logged_fsync(descriptor: int) -> None:
        events.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def logged_rename(old: Path, new: Path) -> None:
        events.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "rename", logged_rename)
    folder = make(store).path
    published = events.index("rename")
    assert {path.stat().st_ino for path in [folder, *folder.rglob("*")]} == set(events[:published])
    assert events[published + 1 :] == [folder.parent.stat().st_ino]


def test_two_spellings_share_an_entry(store: ArtifactStore) -> None:
    make(store)
    other = {"options": {"num_cores": 16.0, "ctx_len": 2048}, "opset": 23, "weights": {"model.safetensors": "a1"}}
    assert store.get_or_build("package", other, never)[1] is False


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {"model.safetensors": "a2"}},
        {"weights": {"model.safetensors": "a1", "extra.safetensors": "b1"}},
        {"opset": 22},
        {"options": {"ctx_len": 4096, "num_cores": 16}},
        {"options": {"ctx_len": 2048}},
        {"transforms": ["rms_norm@1"]},
        {"versions": {"qefficient": "2"}},
    ],
)
def test_every_ingredient_changes_the_key(store: ArtifactStore, change: dict[str, Any]) -> None:
    make(store)
    assert store.get("package", {**INGREDIENTS, **change}) is None


def test_kinds_do_not_mix(store: ArtifactStore) -> None:
    make(store)
    assert store.get("onnx", INGREDIENTS) is None


@pytest.mark.parametrize("kind", ["", "..", "a/b", "A", "x" * 40, "a\0"])
def test_kind_is_a_short_word(store: ArtifactStore, kind: str) -> None:
    with pytest.raises(ValueError, match="short lower-case word"):
        store.get(kind, INGREDIENTS)


@pytest.mark.parametrize("label", ["../../x", "a/b\0c", "CON", "x" * 5000, "名前 \ud800"])
def test_label_is_only_in_the_manifest(store: ArtifactStore, label: str) -> None:
    artifact = make(store, label=label)
    assert artifact.path == folder_of(store)
    assert open_artifact(artifact.path).manifest.label == label


def test_home_is_read_at_call_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QEFF_HOME", "~/x")
    assert home() == Path("~/x").expanduser()
    assert ArtifactStore().root == home() / "artifacts"
    monkeypatch.delenv("QEFF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home() == tmp_path / "qefficient" or sys.platform != "linux"


def test_store_is_private(store: ArtifactStore) -> None:
    make(store)
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700


def test_store_open_to_everybody_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    ArtifactStore(folder)
    ArtifactStore(folder)
    assert [record.getMessage() for record in caplog.records if "every user" in record.message] == [
        f"{folder} can be written by every user of this machine: run chmod 700 on it"
    ]


# What a build may leave


def _nothing(folder: Path) -> None:
    pass


def _empty_file(folder: Path) -> None:
    build(folder)
    (folder / "empty.bin").touch()


def _link(folder: Path) -> None:
    build(folder)
    (folder / "link").symlink_to("/etc/hostname")


def _linked_folder(folder: Path) -> None:
    build(folder)
    (folder / "link").symlink_to("/etc")


def _own_manifest(folder: Path) -> None:
    build(folder)
    (folder / MANIFEST_NAME).write_text("{}")


def _odd_name(folder: Path) -> None:
    (folder / "a\\b\n").write_text("x")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


@pytest.mark.parametrize("bad", [_nothing, _empty_file, _link, _linked_folder, _own_manifest, _odd_name, _pipe])
def test_bad_build_is_refused(store: ArtifactStore, bad: Callable[[Path], None]) -> None:
    def bad_build(folder: Path) -> dict[str, Any]:
        bad(folder)
        return {}

    with pytest.raises(ArtifactError, match=r"The build of nice \(package\) left"):
        store.get_or_build("package", INGREDIENTS, bad_build, label="nice")
    assert store.get("package", INGREDIENTS) is None
    assert leftovers(store.root) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), CompileError("qaic-compile: rc 1")])
def test_failed_build_leaves_nothing_and_is_tried_again(store: ArtifactStore, error: BaseException) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        build(folder)
        raise error

    with pytest.raises(type(error)):
        store.get_or_build("package", INGREDIENTS, fail)
    assert not folder_of(store).exists()
    assert leftovers(store.root) == []
    assert store.get_or_build("package", INGREDIENTS, build)[1]


def test_interrupt_while_publishing_leaves_nothing(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, "sync_tree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(store)
    assert leftovers(store.root) == []
    assert store.get("package", INGREDIENTS) is None


@pytest.mark.parametrize("body", [{"report": float("nan")}, {"path": Path("x")}])
def test_body_that_is_not_json_is_refused(store: ArtifactStore, body: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match="JSON"):
        store.get_or_build("package", INGREDIENTS, lambda folder: {**build(folder), **body})
    assert leftovers(store.root) == []


# Damage


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("name", ["qpcs/programqpc.bin", "tokenizer.json", MANIFEST_NAME])
@pytest.mark.parametrize("damage", [_flip, _truncate, _empty, Path.unlink])
def test_damaged_file_is_quarantined_and_rebuilt(
    store: ArtifactStore, caplog: pytest.LogCaptureFixture, name: str, damage: Callable[[Path], None]
) -> None:
    folder = make(store).path
    damage(folder / name)
    with pytest.raises((CorruptArtifact, ArtifactNotFound), match=name):
        open_artifact(folder)
    assert store.get("package", INGREDIENTS) is None
    artifact, built = store.get_or_build("package", INGREDIENTS, build)
    assert built
    artifact.verify(fresh=True)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "Moved a damaged entry" in warnings[0].getMessage()
    assert [entry.state for entry in store.entries()] == ["quarantine", "stored"]


def test_damage_while_open_is_found(store: ArtifactStore) -> None:
    artifact = make(store)
    _flip(artifact.path / "tokenizer.json")
    with pytest.raises(CorruptArtifact, match=r"tokenizer\.json has sha256 [0-9a-f]{64}, expected [0-9a-f]{64}"):
        artifact.verify()
    os.truncate(artifact.path / "tokenizer.json", 3)
    with pytest.raises(CorruptArtifact, match=r"tokenizer\.json has 3 bytes, expected 18"):
        artifact.verify()


def test_silent_damage_is_found_by_reading_everything(store: ArtifactStore) -> None:
    """A disk changes bits without changing times: a note that says otherwise must not hide it."""
    artifact = make(store)
    _flip(artifact.path / "tokenizer.json")
    record = artifact.manifest.files["tokenizer.json"]
    digests.remember(artifact.path / "tokenizer.json", record.sha256, (artifact.path / "tokenizer.json").stat())
    artifact.verify()
    (entry,) = store.verify_all()
    assert entry.state == "quarantine"
    assert "tokenizer.json has sha256" in entry.problem
    assert entry.path.is_dir()
    assert store.get("package", INGREDIENTS) is None


def test_silent_damage_is_found_where_no_note_can_be_written(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = make(store)
    _flip(artifact.path / "tokenizer.json")
    record = artifact.manifest.files["tokenizer.json"]
    digests.remember(artifact.path / "tokenizer.json", record.sha256, (artifact.path / "tokenizer.json").stat())
    monkeypatch.setattr(digests, "remember", lambda *_: None)
    assert [entry.state for entry in store.verify_all()] == ["quarantine"]


def test_additional_file_is_damage(store: ArtifactStore) -> None:
    folder = make(store).path
    (folder / "qpcs" / "more.bin").write_text("x")
    with pytest.raises(CorruptArtifact, match=r"qpcs/more\.bin is not in the manifest"):
        open_artifact(folder)
    assert store.get("package", INGREDIENTS) is None


def test_left_over_of_nfs_is_not_damage(store: ArtifactStore) -> None:
    folder = make(store).path
    (folder / ".nfs000000000000abcd").write_text("x")
    assert open_artifact(folder).path == folder
    assert store.get("package", INGREDIENTS) is not None


def test_link_in_place_of_a_file_is_damage(store: ArtifactStore, tmp_path: Path) -> None:
    artifact = make(store)
    copy = tmp_path / "copy"
    (artifact.path / "tokenizer.json").rename(copy)
    (artifact.path / "tokenizer.json").symlink_to(copy)
    with pytest.raises(CorruptArtifact, match="is a link or a device"):
        artifact.verify()
    with pytest.raises(ArtifactError, match="leads out of the artifact"):
        artifact.file("tokenizer.json")


def test_entry_of_another_key_is_damage(store: ArtifactStore) -> None:
    other = {**INGREDIENTS, "opset": 22}
    folder = make(store, other).path
    folder_of(store).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, folder_of(store))
    assert store.get("package", INGREDIENTS) is None
    assert store.get("package", other) is not None


def test_file_in_place_of_an_entry_is_damage(store: ArtifactStore) -> None:
    make(store)
    shutil.rmtree(folder_of(store))
    folder_of(store).write_text("what?")
    assert store.get_or_build("package", INGREDIENTS, build)[1]


@pytest.mark.parametrize("name", ["programqpc.bin", "../manifest.json", "/etc/hostname", MANIFEST_NAME, ""])
def test_only_files_of_the_manifest_are_given_out(store: ArtifactStore, name: str) -> None:
    with pytest.raises(ArtifactError, match="has no file"):
        make(store).file(name)


def test_unchanged_files_are_not_read_again(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    make(store)
    monkeypatch.setattr(digests, "hash_file", never)
    assert store.get("package", INGREDIENTS) is not None


# The manifest


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object], *, seal: bool = True) -> None:
    """Change a manifest as somebody would who knows how to seal it."""
    path = folder / MANIFEST_NAME
    content = json.loads(path.read_text())
    change(content)
    if seal:
        content.pop("seal", None)
        content["seal"] = digest_of_json(content)
    path.write_text(json.dumps(content))


def digest_of_json(content: object) -> str:
    import hashlib

    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def test_every_flipped_bit_of_a_manifest_is_seen(store: ArtifactStore) -> None:
    artifact = make(store, {"opset": 23})
    original = (artifact.path / MANIFEST_NAME).read_bytes()
    accepted = 0
    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= 1 << position % 8
        try:
            assert Manifest.from_json(bytes(changed)) == artifact.manifest
            accepted += 1
        except ArtifactError:
            pass
    assert accepted < len(original) // 20  # white space between tokens may change without changing anything


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda m: m.pop("body"), "'body' is missing"),
        (lambda m: m.update(more=1), "'more' is unknown"),
        (lambda m: m.update(body=[]), "body is a list, expected a dict"),
        (lambda m: m.update(kind="../x"), "its kind is"),
        (lambda m: m.update(versions={"python": 3}), "a version is not text"),
        (lambda m: m.update(format_version="1"), "its format_version is '1'"),
        (lambda m: m.update(format_version=True), "its format_version is True"),
        (lambda m: m.update(format_version=0), "its format_version is 0"),
        (lambda m: m["ingredients"].update(opset=1), "its key is not the digest"),
        (lambda m: m["files"].update({"../../x": {"size": 1, "sha256": "0" * 64}}), "outside of its folder"),
        (lambda m: m["files"].update({"/etc/passwd": {"size": 1, "sha256": "0" * 64}}), "outside of its folder"),
        (lambda m: m["files"].update({"a\\b": {"size": 1, "sha256": "0" * 64}}), "outside of its folder"),
        (lambda m: m["files"].update({"x": {"size": 1}}), "no size and sha256 of x"),
        (lambda m: m["files"].update({"x": {"size": -1, "sha256": "0" * 64}}), "the size or sha256 of x"),
        (lambda m: m["files"].update({"x": {"size": True, "sha256": "0" * 64}}), "the size or sha256 of x"),
        (lambda m: m["files"].update({"x": {"size": 1, "sha256": "A" * 64}}), "the size or sha256 of x"),
    ],
)
def test_manifest_is_read_as_if_a_stranger_had_written_it(
    store: ArtifactStore, change: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    folder = make(store).path
    rewrite(folder, change)
    with pytest.raises(CorruptArtifact, match=complaint):
        open_artifact(folder)
    assert store.get("package", INGREDIENTS) is None


def test_edited_body_is_seen(store: ArtifactStore) -> None:
    folder = make(store).path
    rewrite(folder, lambda m: m["body"].update(target="cloud-ai-100"), seal=False)
    with pytest.raises(CorruptArtifact, match="its seal does not fit"):
        open_artifact(folder)


@pytest.mark.parametrize(
    "junk",
    [
        "",
        "{",
        "[]",
        "null",
        "\0" * 100,
        "[" * 100_000,
        '{"a": NaN}',
        '{"a": 1, "a": 1}',
        '{"a": ' * 900 + "1" + "}" * 900,
    ],
)
def test_junk_manifest_is_a_miss(store: ArtifactStore, junk: str) -> None:
    folder = make(store).path
    (folder / MANIFEST_NAME).write_text(junk)
    with pytest.raises(CorruptArtifact, match=r"manifest\.json is damaged"):
        open_artifact(folder)
    assert store.get_or_build("package", INGREDIENTS, build)[1]
    assert [entry.state for entry in store.entries()] == ["quarantine", "stored"]


def test_deeply_nested_ingredients_are_no_crash(store: ArtifactStore) -> None:
    folder = make(store).path
    deep: dict[str, Any] = {}
    for _ in range(700):
        deep = {"a": deep}
    rewrite(folder, lambda m: m.update(ingredients=deep))
    with pytest.raises(CorruptArtifact):
        open_artifact(folder)


def test_pipe_in_place_of_a_manifest_is_not_opened(store: ArtifactStore) -> None:
    folder = make(store).path
    (folder / MANIFEST_NAME).unlink()
    os.mkfifo(folder / MANIFEST_NAME)
    with pytest.raises(CorruptArtifact, match="is not a file"):
        open_artifact(folder)


def test_newer_format_names_both_versions_and_is_a_miss(store: ArtifactStore, caplog: pytest.LogCaptureFixture) -> None:
    folder = make(store).path
    rewrite(folder, lambda m: m.update(format_version=999, versions={"qefficient": "9.1"}, news=[]), seal=False)
    with pytest.raises(NewerFormat, match=rf"999, written by QEfficient 9\.1.* reads up to {FORMAT_VERSION}\. Upgrade"):
        open_artifact(folder)
    assert store.get_or_build("package", INGREDIENTS, build)[1]
    assert len(caplog.records) == 1
    (aside,) = (entry.path for entry in store.entries() if entry.state == "quarantine")
    assert json.loads((aside / MANIFEST_NAME).read_text())["format_version"] == 999


def test_older_format_says_to_compile_again_and_is_a_miss(store: ArtifactStore) -> None:
    folder = make(store).path
    rewrite(folder, lambda m: m.update(format_version=FORMAT_VERSION - 1), seal=False)
    with pytest.raises(OlderFormat, match=rf"format version {FORMAT_VERSION - 1}.*reads {FORMAT_VERSION}\. Compile"):
        open_artifact(folder)
    assert store.get("package", INGREDIENTS) is None
    assert make(store).manifest.format_version == FORMAT_VERSION


@pytest.mark.parametrize("where", ["missing", "empty", "file"])
def test_no_package_there(tmp_path: Path, where: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactNotFound, match=f"no package at .*{where}.*compile"):
        open_artifact(tmp_path / where)


def test_copied_package_opens_anywhere(store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = make(store)
    shutil.copytree(artifact.path, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    copy = open_artifact("copy")
    assert copy.manifest == artifact.manifest
    monkeypatch.chdir("/")
    assert copy.file("tokenizer.json").read_text() == '{"version": "1.0"}'


# update_body


def test_update_body_keeps_what_others_wrote(store: ArtifactStore) -> None:
    artifact = make(store)
    update_body(artifact, {"parity": {"tokens": 32}})
    updated = update_body(artifact, {"target": "sim"})
    assert updated.manifest.body["parity"] == {"tokens": 32}
    assert updated.manifest.body["target"] == "sim"
    assert updated == store.get("package", INGREDIENTS)
    assert leftovers(store.root) == []


def test_update_body_of_something_else_is_refused(tmp_path: Path) -> None:
    old, _ = write_artifact(tmp_path / "out", "package", {"v": 1}, build)
    write_artifact(tmp_path / "out", "package", {"v": 2}, build)
    with pytest.raises(ArtifactError, match="was replaced"):
        update_body(old, {"parity": {}})


def test_failed_update_body_keeps_the_old_one(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = make(store)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        update_body(artifact, {"target": "sim"})
    assert open_artifact(artifact.path) == artifact
    assert leftovers(store.root) == []


# What a build hashed itself


def hashed(folder: Path) -> Built:
    (folder / "weights").write_bytes(b"12345")
    (folder / "graph").write_bytes(b"67")
    return Built({"a": 1}, {"weights": FileRecord(5, hashlib.sha256(b"12345").hexdigest())})


def test_file_that_its_writer_hashed_is_not_read_again(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    hash_file = publish.hash_file

    def logged(path: Path) -> Any:
        read.append(Path(path).name)
        return hash_file(path)

    monkeypatch.setattr(publish, "hash_file", logged)
    monkeypatch.setattr(digests, "hash_file", logged)
    artifact, _ = store.get_or_build("onnx", INGREDIENTS, hashed)
    artifact.verify()
    assert read == ["graph"]
    assert artifact.manifest.body == {"a": 1}
    artifact.verify(fresh=True)


def test_writers_digest_is_believed_only_as_long_as_nobody_reads(store: ArtifactStore) -> None:
    def wrong(folder: Path) -> Built:
        hashed(folder)
        return Built({}, {"weights": FileRecord(5, "0" * 64)})

    artifact, _ = store.get_or_build("onnx", INGREDIENTS, wrong)
    with pytest.raises(CorruptArtifact, match="weights"):
        artifact.verify(fresh=True)


def test_writers_size_must_be_the_files(store: ArtifactStore) -> None:
    def wrong(folder: Path) -> Built:
        (folder / "weights").write_bytes(b"1234")
        return Built({}, {"weights": FileRecord(5, hashlib.sha256(b"12345").hexdigest())})

    with pytest.raises(ArtifactError, match="4 bytes, its writer wrote 5"):
        store.get_or_build("onnx", INGREDIENTS, wrong)
    assert leftovers(store.root) == []


# Several processes, and their deaths

_RACE = """
store, log = ArtifactStore(Path(sys.argv[1])), Path(sys.argv[2])
def build(folder):
    with log.open("a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(0.3)
    (folder / "model.onnx").write_text("x" * 1000)
    return {}
print("ready", flush=True)
sys.stdin.readline()
artifact, built = store.get_or_build("onnx", {"a": 1}, build)
artifact.verify(fresh=True)
print("built" if built else "found", flush=True)
"""


def test_eight_processes_build_once(tmp_path: Path) -> None:
    children = [start(_RACE, tmp_path / "store", tmp_path / "log") for _ in range(8)]
    try:
        assert [line(child) for child in children] == ["ready"] * 8
        answers = [child.communicate("go\n", timeout=60)[0].strip() for child in _told(children)]
    finally:
        for child in children:
            child.kill()
    assert sorted(answers) == ["built"] + ["found"] * 7
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def _told(children: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    return children


# One process that forks a builder for every number it is told: starting Python 30 times takes most of a minute.
_BUILDERS = """
import filelock, importlib.metadata
def build(folder):
    print(os.getpid(), flush=True)
    for index in range(6):
        (folder / f"part{index}").write_bytes(bytes([index]) * 200_000)
        time.sleep(0.003)
    return {"round": number}
target = Path(sys.argv[1])
for number in map(str.strip, sys.stdin):
    pid = os.fork()
    if pid == 0:
        if sys.argv[2] == "store":
            ArtifactStore(target).get_or_build("onnx", {"round": number}, build)
        else:
            write_artifact(target, "onnx", {"round": number}, build)
        print("done", flush=True)
        time.sleep(60)
    sys.stdin.readline()
    os.waitpid(pid, 0)
    print("reaped", flush=True)
"""


class Builders:
    """Builds in processes of their own, killed on the way."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child
        self.duration = self._build("first", None)

    def kill(self, number: int, after: float) -> None:
        """Start to build ``{"round": str(number)}`` and kill it ``after`` times the duration of a whole build later."""
        self._build(str(number), after * self.duration)

    def _build(self, name: str, delay: float | None) -> float:
        pid = int(self._tell(name))
        started = time.monotonic()
        if delay is None:
            assert line(self.child) == "done"
        else:
            time.sleep(delay)
        duration = time.monotonic() - started
        os.kill(pid, signal.SIGKILL)
        answer = self._tell("reap")
        assert (answer if answer == "reaped" else line(self.child)) == "reaped"
        return duration

    def _tell(self, word: str) -> str:
        assert self.child.stdin is not None
        self.child.stdin.write(f"{word}\n")
        self.child.stdin.flush()
        return line(self.child)


def test_killed_builds_leave_nothing_visible_or_everything(store: ArtifactStore) -> None:
    rounds, visible = 40, 0
    with killed_at_the_end(start(_BUILDERS, store.root, "store")) as child:
        builders = Builders(child)
        for number in range(rounds):
            builders.kill(number, after=1.3 * number / rounds)
            for path in store.root.glob("onnx/??/[0-9a-f]*"):
                open_artifact(path, fresh=path.name == digest({"round": str(number)}))
            visible += store.get("onnx", {"round": str(number)}) is not None
    assert visible < rounds
    assert all(entry.state in ("stored", "temporary") for entry in store.entries())
    store.prune()
    assert leftovers(store.root) == []
    assert sum(entry.state == "stored" for entry in store.entries()) == visible + 1


def test_killed_replacements_leave_the_old_or_the_new(tmp_path: Path) -> None:
    folder, rounds = tmp_path / "out", 20
    with killed_at_the_end(start(_BUILDERS, folder, "folder")) as child:
        builders = Builders(child)
        for number in range(rounds):
            before = open_artifact(folder).manifest.key
            builders.kill(number, after=1.2 * number / rounds)
            publish.recover(folder)  # as whoever writes there next
            assert open_artifact(folder, fresh=True).manifest.key in (before, digest({"round": str(number)}))
    write_artifact(folder, "onnx", {"last": 1}, build)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


_DIES_BETWEEN_RENAMES = """
rename = os.rename
def rename_once(old, new):
    rename(old, new)
    os._exit(9)
os.rename = rename_once
write_artifact(sys.argv[1], "onnx", {"second": 1}, lambda folder: {"size": (folder / "x").write_text("new")})
"""


def test_old_artifact_comes_back_after_death_between_the_renames(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first, _ = write_artifact(folder, "onnx", {"first": 1}, build)
    with start(_DIES_BETWEEN_RENAMES, folder) as child:
        assert child.wait(60) == 9
    assert not folder.exists()
    again, built = write_artifact(folder, "onnx", {"first": 1}, never)
    assert not built
    assert again == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


_HOLDS = """
def build(folder):
    print("go", flush=True)
    time.sleep(60)
ArtifactStore(Path(sys.argv[1])).get_or_build("package", {"a": 1}, build)
"""


def test_waiter_says_so_and_goes_on_when_the_holder_dies(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "REPORT_EVERY_S", 0.1)
    results: list[bool] = []
    with killed_at_the_end(start(_HOLDS, store.root)) as holder:
        assert line(holder) == "go"
        waiter = threading.Thread(
            target=lambda: results.append(store.get_or_build("package", {"a": 1}, build, label="Qwen")[1])
        )
        waiter.start()
        time.sleep(0.5)
        assert waiter.is_alive()
        assert "Waiting for another process that is making Qwen (package)" in caplog.text
        holder.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        waiter.join(30)
    assert results == [True]
    assert time.monotonic() - killed < 2
    assert leftovers(store.root) == []


def test_threads_build_once(store: ArtifactStore) -> None:
    calls: list[int] = []

    def slow(folder: Path) -> dict[str, Any]:
        calls.append(1)
        time.sleep(0.1)
        return build(folder)

    threads = [threading.Thread(target=store.get_or_build, args=("package", INGREDIENTS, slow)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert calls == [1]


def test_one_build_may_need_another(store: ArtifactStore) -> None:
    def compile_it(folder: Path) -> dict[str, Any]:
        graph, _ = store.get_or_build("onnx", {"graph": 1}, build)
        shutil.copy(graph.file("tokenizer.json"), folder)
        return {"graph": graph.manifest.key}

    artifact, _ = store.get_or_build("package", INGREDIENTS, compile_it)
    assert artifact.manifest.body == {"graph": digest({"graph": 1})}


# The disk

_DISK_FULL = """
import resource
from QEfficient.errors import StorageError
store = ArtifactStore(Path(sys.argv[1]))
def build(folder):
    (folder / "small").write_text("x")
    with open(folder / "big", "wb") as file:
        for _ in range(100):
            file.write(bytes(10_000))
    return {}
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    store.get_or_build("package", {"a": 1}, build)
except StorageError as error:
    print(error.errno, error)
"""


def test_full_disk_is_a_clear_error_and_leaves_nothing(store: ArtifactStore) -> None:
    make(store)
    with start(_DISK_FULL, store.root) as child:
        answer = line(child)
    assert answer.startswith(f"{errno.EFBIG} Cannot write {folder_of(store, {'a': 1})}: File too large")
    assert "free on that disk" in answer
    assert "QEFF_HOME" in answer
    assert leftovers(store.root) == []
    assert store.get("package", {"a": 1}) is None
    assert store.get("package", INGREDIENTS) is not None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_disk_that_refuses_while_publishing(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(store.root))

    def build_then_refuse(folder: Path) -> dict[str, Any]:
        body = build(folder)
        if call != "mkdir":
            monkeypatch.setattr(os, call, refuse)
        return body

    if call == "mkdir":
        store.root.mkdir()
        monkeypatch.setattr(os, call, refuse)
    with pytest.raises(StorageError, match=os.strerror(code)) as caught:
        store.get_or_build("package", INGREDIENTS, build_then_refuse)
    monkeypatch.undo()
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == code
    assert leftovers(store.root) == []


def test_permission_error_of_the_build_itself_is_left_alone(store: ArtifactStore) -> None:
    def cannot_run(folder: Path) -> dict[str, Any]:
        raise PermissionError(errno.EACCES, "Permission denied", "/opt/qti-aic/exec/qaic-compile")

    with pytest.raises(PermissionError) as caught:
        store.get_or_build("package", INGREDIENTS, cannot_run)
    assert not isinstance(caught.value, StorageError)


_READ_ONLY = """
import filelock, importlib.metadata, logging, platformdirs
from QEfficient.store import publish
versions = publish.writer_versions()
publish.writer_versions = lambda: versions  # the other user cannot read what is installed
if os.geteuid() == 0:
    os.seteuid(65534)
store = ArtifactStore(Path(sys.argv[1]))
artifact, built = store.get_or_build("package", {"whole": 1}, None)
artifact.verify(fresh=True)
assert not built
assert [entry.state for entry in store.entries()] == ["stored", "stored"]
assert [entry.state for entry in store.verify_all()].count("damaged") == 1
assert store.get("package", {"damaged": 1}) is None
def build(folder):
    (folder / "x").write_text("x")
    return {}
for ingredients in ({"missing": 1}, {"damaged": 1}):
    artifact, built = store.get_or_build("package", ingredients, build)
    artifact.verify(fresh=True)
    print(built, artifact.path, store.get_or_build("package", ingredients, build)[1], flush=True)
"""


def test_store_that_cannot_be_written_serves_hits(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(tempfile.mkdtemp(prefix="qefficient-"))  # pytest's own is closed to the user that root becomes
    try:
        folder.chmod(0o755)
        monkeypatch.setenv("QEFF_HOME", str(folder / "home"))
        store = ArtifactStore(folder / "store")
        make(store, {"whole": 1})
        _flip(make(store, {"damaged": 1}).path / "tokenizer.json")
        _set_modes(folder, 0o555, 0o444)
        (folder / "tmp").mkdir()
        (folder / "tmp").chmod(0o777)
        monkeypatch.setenv("TMPDIR", str(folder / "tmp"))
        with start(_READ_ONLY, store.root) as child:
            answers, errors = child.communicate(timeout=60)
        assert answers.count(f"True {folder / 'tmp' / 'qefficient-'}") == 2, errors
        assert answers.count(" False") == 2, "the temporary folder is looked into the next time"
        assert errors.count("since the store cannot be written. Cannot write") >= 2
        assert errors.count("Set QEFF_HOME to a folder that you can write") >= 2
        assert "cannot be moved out of a store that is not writable" in errors
    finally:
        _set_modes(folder, 0o755, 0o644)
        shutil.rmtree(folder)


def _set_modes(folder: Path, folder_mode: int, file_mode: int) -> None:
    folder.chmod(folder_mode)
    for here, folders, names in os.walk(folder):
        for name in folders:
            Path(here, name).chmod(folder_mode)
        for name in names:
            Path(here, name).chmod(file_mode)


# A folder that the user chose


def test_chosen_folder_is_written_kept_and_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    first, built = write_artifact(folder, "package", {"v": 1}, build, label="one")
    assert built
    assert write_artifact(folder, "package", {"v": 1.0}, never) == (first, False)
    second, built = write_artifact(folder, "package", {"v": 2}, lambda f: {"size": (f / "x").write_text("new")})
    assert built
    assert open_artifact(folder) == second
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST_NAME, "x"]
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_chosen_folder_that_is_damaged_is_built_again(tmp_path: Path) -> None:
    artifact, _ = write_artifact(tmp_path / "out", "package", {"v": 1}, build)
    _flip(artifact.file("tokenizer.json"))
    assert write_artifact(tmp_path / "out", "package", {"v": 1}, build)[1]
    open_artifact(tmp_path / "out")


def test_failed_replacement_keeps_the_old_one(tmp_path: Path) -> None:
    artifact, _ = write_artifact(tmp_path / "out", "package", {"v": 1}, build)
    with pytest.raises(AssertionError, match="built again"):
        write_artifact(tmp_path / "out", "package", {"v": 2}, never)
    assert open_artifact(tmp_path / "out") == artifact
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


def test_replacement_that_cannot_be_moved_in_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, _ = write_artifact(tmp_path / "out", "package", {"v": 1}, build)
    rename = os.rename

    def refuse_the_new_one(old: Path, new: Path) -> None:
        if ".tmp-" in old.name:
            raise OSError(errno.EIO, "Input/output error")
        rename(old, new)

    monkeypatch.setattr(os, "rename", refuse_the_new_one)
    with pytest.raises(OSError, match="Input/output error"):
        write_artifact(tmp_path / "out", "package", {"v": 2}, build)
    assert open_artifact(tmp_path / "out") == artifact
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


def test_empty_folder_and_link_to_a_folder_may_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    artifact, _ = write_artifact(tmp_path / "link", "package", {"v": 1}, build)
    assert artifact.path == tmp_path / "out"
    assert (tmp_path / "link").is_symlink()
    assert open_artifact(tmp_path / "link").manifest == artifact.manifest


def _foreign_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")


def _foreign_file(folder: Path) -> None:
    folder.write_text("years of work")


def _foreign_manifest(folder: Path) -> None:
    folder.mkdir()
    (folder / MANIFEST_NAME).write_text('{"name": "a web app"}')


def _notes_in_ours(folder: Path) -> None:
    write_artifact(folder, "package", {"v": 1}, build)
    (folder / "notes.txt").write_text("years of work")


def _newer_one(folder: Path) -> None:
    write_artifact(folder, "package", {"v": 1}, build)
    rewrite(folder, lambda m: m.update(format_version=999))


@pytest.mark.parametrize("foreign", [_foreign_folder, _foreign_file, _foreign_manifest, _notes_in_ours, _newer_one])
def test_what_is_not_ours_is_not_overwritten(tmp_path: Path, foreign: Callable[[Path], None]) -> None:
    folder = tmp_path / "out"
    foreign(folder)
    before = {path: path.is_file() and path.read_bytes() for path in [folder, *folder.rglob("*")]}
    with pytest.raises(ArtifactError, match=str(folder)):
        write_artifact(folder, "package", {"v": 2}, never)
    assert {path: path.is_file() and path.read_bytes() for path in [folder, *folder.rglob("*")]} == before


@pytest.mark.parametrize("folder", ["", ".", ".."])
def test_working_folder_is_not_replaced(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell in it would be nowhere."""
    empty, above = tmp_path / "empty", tmp_path / "above"
    empty.mkdir()
    write_artifact(above, "package", {"v": 1}, build)
    monkeypatch.chdir(above / "qpcs" if folder == ".." else empty)
    with pytest.raises(ArtifactError, match=r"working folder or above it.*inside it"):
        write_artifact(folder, "package", {"v": 2}, never)
    assert write_artifact("../beside", "package", {"v": 2}, build)[1]


def test_mount_point_is_refused_before_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "out")
    with pytest.raises(ArtifactError, match=r"mount point.*inside it"):
        write_artifact(tmp_path / "out", "package", {"v": 1}, never)


# Maintenance


def age(store: ArtifactStore, ingredients: Mapping[str, Any], hours: float) -> None:
    """Make an entry look as if it was last used that long ago."""
    folder = folder_of(store, ingredients)
    then = time.time() - hours * 3600
    os.utime(folder.parent / f".{folder.name}.used", (then, then))


def stored(store: ArtifactStore) -> set[int]:
    return {entry.artifact.manifest.ingredients["v"] for entry in store.entries() if entry.artifact}


def test_entries_say_what_is_there(store: ArtifactStore) -> None:
    assert store.entries() == []
    make(store, {"v": 1}, label="Qwen")
    os.truncate(make(store, {"v": 2}).path / "tokenizer.json", 1)
    entries = {entry.key: entry for entry in store.entries()}
    whole, damaged = entries[digest({"v": 1})], entries[digest({"v": 2})]
    assert (whole.kind, whole.state, whole.label, whole.problem) == ("package", "stored", "Qwen", "")
    assert 256 * 40 + 18 < whole.size_bytes < 20_000
    assert abs(whole.last_used - time.time()) < 60
    assert (damaged.state, damaged.artifact) == ("damaged", None)
    assert "tokenizer.json has 1 bytes, expected 18" in damaged.problem


def test_verify_all_quarantines_what_is_damaged(store: ArtifactStore, caplog: pytest.LogCaptureFixture) -> None:
    make(store, {"v": 1})
    _flip(make(store, {"v": 2}).path / "tokenizer.json")
    states = {entry.key: entry.state for entry in store.verify_all()}
    assert states == {digest({"v": 1}): "stored", digest({"v": 2}): "quarantine"}
    assert len(caplog.records) == 1
    assert len(store.verify_all()) == 1


def test_why_names_the_differing_ingredients(store: ArtifactStore) -> None:
    assert store.why("package", INGREDIENTS) is None
    make(store)
    make(store, {"unlike": "everything", "opset": 22})
    assert store.why("package", INGREDIENTS) == {}
    asked = {
        "weights": {"model.safetensors": "a1"},
        "opset": True,
        "options": {"ctx_len": 4096, "num_cores": 16},
        "transforms": ["norm"],
    }
    assert store.why("package", asked) == {
        "opset": (23, True),
        "options.ctx_len": (2048, 4096),
        "transforms[0]": (ABSENT, "norm"),
    }
    assert store.why("onnx", asked) is None


def test_why_tells_one_from_true_and_prefers_what_was_used_last(store: ArtifactStore) -> None:
    by_name = sorted((1, 2, 3), key=lambda value: digest({"v": value}))
    for value, hours in zip(by_name, (2, 3, 1), strict=True):
        make(store, {"v": value})
        age(store, {"v": value}, hours)
    assert store.why("package", {"v": 4}) == {"v": (by_name[-1], 4)}
    store.prune(max_bytes=0)
    make(store, {"v": 1})
    assert store.why("package", {"v": True}) == {"v": (1, True)}


def test_prune_by_size_removes_what_was_used_longest_ago(store: ArtifactStore) -> None:
    for value, hours in ((1, 5), (2, 50), (3, 20)):
        make(store, {"v": value})
        age(store, {"v": value}, hours)
    assert store.get("package", {"v": 2}) is not None  # now the one used last
    sizes = {entry.size_bytes for entry in store.entries()}
    would = store.prune(max_bytes=2 * max(sizes), dry_run=True)
    assert stored(store) == {1, 2, 3}
    removed = store.prune(max_bytes=2 * max(sizes))
    assert [entry.key for entry in removed] == [entry.key for entry in would] == [digest({"v": 3})]
    assert stored(store) == {1, 2}
    assert [entry.key for entry in store.prune(max_bytes=0)] == [digest({"v": 1}), digest({"v": 2})]
    assert store.entries() == []
    assert not list(store.root.rglob(".*.used"))


def make_program_and_packages(store: ArtifactStore, *values: int) -> tuple[Artifact, list[Artifact]]:
    """A program, and packages that share its files and add one of their own."""
    program, _ = store.get_or_build("program", {"v": 0}, build)

    def build_package(folder: Path) -> dict[str, Any]:
        program.link_into(folder)
        (folder / "config.json").write_text("{}")
        return {}

    return program, [store.get_or_build("package", {"v": value}, build_package)[0] for value in values]


def test_linked_files_are_stored_once(store: ArtifactStore) -> None:
    program, packages = make_program_and_packages(store, 1, 2)
    name = "qpcs/programqpc.bin"
    assert {os.stat(artifact.path / name).st_ino for artifact in (program, *packages)} == {
        os.stat(program.path / name).st_ino
    }
    entries = store.entries()
    assert stored_bytes(entries) < sum(entry.size_bytes for entry in entries) / 2
    disk = {file.stat().st_ino: file.stat().st_size for entry in entries for file in entry.path.rglob("*.*")}
    assert stored_bytes(entries) == sum(disk.values())


def test_linked_files_are_not_read_again(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    _, (package,) = make_program_and_packages(store, 1)
    monkeypatch.setattr(digests, "hash_file", lambda path: pytest.fail(f"{path} was read again"))
    assert store.get("package", {"v": 1}) == package


def test_what_leaves_the_store_shares_no_bytes(store: ArtifactStore, tmp_path: Path) -> None:
    program, _ = make_program_and_packages(store)
    (tmp_path / "elsewhere").mkdir()
    program.link_into(tmp_path / "elsewhere")
    _flip(tmp_path / "elsewhere" / "qpcs" / "programqpc.bin")
    assert store.get("program", {"v": 0}) is not None


def test_damage_of_a_linked_file_is_seen_in_every_artifact(store: ArtifactStore) -> None:
    _, packages = make_program_and_packages(store, 1, 2)
    _flip(packages[0].path / "qpcs" / "programqpc.bin")
    assert store.get("package", {"v": 2}) is None
    assert store.get("package", {"v": 1}) is None
    assert store.get("program", {"v": 0}) is None
    make_program_and_packages(store, 1, 2)
    assert store.get("package", {"v": 2}) is not None


def test_prune_counts_a_linked_file_once(store: ArtifactStore) -> None:
    _, packages = make_program_and_packages(store, 1, 2)
    size = stored_bytes(store.entries())
    assert store.prune(max_bytes=size) == []
    age(store, {"v": 1}, 50)
    assert [entry.key for entry in store.prune(max_bytes=size - 1)] == [digest({"v": 1})]
    assert packages[1].file("qpcs/programqpc.bin").exists()
    assert stored(store) == {0, 2}


def test_prune_by_age(store: ArtifactStore) -> None:
    for value, hours in ((1, 5), (2, 50)):
        make(store, {"v": value})
        age(store, {"v": value}, hours)
    store.prune(older_than=timedelta(days=1))
    assert stored(store) == {1}


def test_prune_without_limits_removes_only_rubbish(store: ArtifactStore) -> None:
    make(store, {"v": 1})
    _flip(make(store, {"v": 2}).path / "tokenizer.json")
    store.get("package", {"v": 2})
    folder = folder_of(store, {"v": 3})
    (folder.parent / f".{folder.name}.tmp-dead").mkdir(parents=True)
    assert [entry.state for entry in store.prune(damaged=False)] == ["temporary"]
    assert [entry.state for entry in store.prune()] == ["quarantine"]
    assert [entry.state for entry in store.entries()] == ["stored"]


def test_prune_keeps_what_is_being_built(store: ArtifactStore) -> None:
    def build_during_prune(folder: Path) -> dict[str, Any]:
        body = build(folder)
        pruning = threading.Thread(target=store.prune, kwargs={"max_bytes": 0})
        pruning.start()
        pruning.join(30)
        assert folder.exists()
        return body

    make(store, {"v": 1})
    store.get_or_build("package", {"v": 2}, build_during_prune)
    assert stored(store) == {2}


def test_prune_keeps_what_was_used_or_removed_meanwhile(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (1, 2):
        make(store, {"v": value})
        age(store, {"v": value}, 5)
    hold_if_free = locks.hold_if_free

    @contextmanager
    def hold_after_others(folder: Path) -> Iterator[bool]:
        if folder == folder_of(store, {"v": 1}):
            store.get("package", {"v": 1})
        else:
            shutil.rmtree(folder)
        with hold_if_free(folder) as held:
            yield held

    monkeypatch.setattr("QEfficient.store.housekeeping.hold_if_free", hold_after_others)
    assert store.prune(max_bytes=0) == []
    assert stored(store) == {1}


def test_reader_is_unaffected_by_prune(store: ArtifactStore) -> None:
    with make(store).file("tokenizer.json").open() as file:
        assert len(store.prune(max_bytes=0)) == 1
        assert file.read() == '{"version": "1.0"}'


def test_use_is_noted_where_possible(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    make(store)
    age(store, INGREDIENTS, 30)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", refuse)
        assert store.get("package", INGREDIENTS) is not None
    assert time.time() - store.entries()[0].last_used > 3600
    store.get("package", INGREDIENTS)
    assert time.time() - store.entries()[0].last_used < 3600


# What these modules are made of


def test_import_is_light() -> None:
    with start("print(*sorted(sys.modules))") as child:
        loaded = set(line(child).split())
    heavy = {"torch", "transformers", "numpy", "onnx", "openvino", "filelock", "platformdirs", "asyncio"}
    assert "QEfficient.store.artifacts" in loaded
    assert not loaded & heavy


@pytest.mark.parametrize("module", MODULES)
def test_nothing_stored_is_ever_executed(module: str) -> None:
    tree = ast.parse((REPOSITORY / "QEfficient" / "store" / f"{module}.py").read_text())
    names = {
        name.name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for name in node.names
    }
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not names & {"pickle", "marshal", "shelve", "import_module", "subprocess", "ctypes", "torch"}
    assert not called & {"eval", "exec", "compile", "__import__"}
