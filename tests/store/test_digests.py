"""Digests of ingredients and of files."""

from __future__ import annotations

import enum
import hashlib
import itertools
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from QEfficient.errors import ArtifactError
from QEfficient.store import digests
from QEfficient.store.digests import canonical, digest, file_digest, forget_missing, json_safe

REPOSITORY = Path(__file__).parents[2]


class Lowering(enum.Enum):
    RETAINED = "retained"


class Level(enum.IntEnum):
    TWO = 2


@dataclass(frozen=True)
class Full:
    size: int
    axes: tuple[str, ...] = ("batch",)


@dataclass(frozen=True)
class Ring:
    size: int
    axes: tuple[str, ...] = ("batch",)


@pytest.fixture(autouse=True)
def library_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("QEFF_HOME", str(home))
    return home


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(range(256)) * 1000)
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the files that were read to be hashed."""
    log: list[str] = []
    hash_file = digests.hash_file

    def logged(path: str) -> tuple[str, os.stat_result]:
        log.append(path)
        return hash_file(path)

    monkeypatch.setattr(digests, "hash_file", logged)
    return log


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 0}, {"a": -0.0}),
        (10**22, 1e22),
        ([1, [2, 3]], (1, (2, 3))),
        ({3, 1, 2}, frozenset({2, 3, 1})),
        ({"b", "a"}, ["a", "b"]),
        (Lowering.RETAINED, "retained"),
        (Level.TWO, 2),
        ({Lowering.RETAINED: 1}, {"retained": 1}),
        ({0: "no", 1: "yes"}, {"0": "no", "1": "yes"}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (Full(4, ("batch", "kv")), Full(axes=["batch", "kv"], size=4.0)),  # type: ignore[arg-type]
        (float("nan"), -float("nan")),
    ],
)
def test_two_spellings_of_one_thing_have_one_digest(one: object, other: object) -> None:
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": True}),
        ({"a": None}, {}),
        ({"a": []}, {"a": {}}),
        ([1, 2], [2, 1]),
        ([[1], 2], [1, [2]]),
        (0.1, 0.1 + 2**-56),
        (Full(4), Ring(4)),
        (float("inf"), float("-inf")),
        (float("inf"), "inf"),
    ],
)
def test_two_things_have_two_digests(one: object, other: object) -> None:
    assert digest(one) != digest(other)


def test_every_order_of_a_dict_has_one_digest() -> None:
    ingredients = {"weights": {"a": "00", "b": "11"}, "opset": 23, "dtype": "float16", "options": {"ctx_len": 2048}}
    orders = itertools.permutations(ingredients.items())
    assert len({digest(dict(order)) for order in orders}) == 1


def test_canonical_form_is_json_and_its_own_canonical_form() -> None:
    value = {"n": {1.0, 2.5, "x"}, "inf": float("inf"), "ring": Ring(3), "level": Level.TWO, "deep": [[{"a": (1,)}]]}
    plain = canonical(value)
    assert canonical(plain) == plain
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert digest(json.loads(json.dumps(plain))) == digest(value)


def test_digest_is_the_same_in_every_release() -> None:
    ingredients = {"lowering": "retained", "opset": 23, "scale": 0.125, "limit": float("inf"), "state": Full(4)}
    assert digest(ingredients) == "9ccf0bd60aae6cf1d70a32aab101f076e0be09ed7f6510630cfecc163011f590"


def test_digest_does_not_depend_on_the_hash_seed() -> None:
    code = "from QEfficient.store.digests import digest; print(digest({'s': set('abcdefgh'), 'n': {1, 'x', None}}))"
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1


@pytest.mark.parametrize("value", [Path("/models/x"), object(), b"raw", len, Full, 1j])
def test_what_has_no_content_is_refused_by_name(value: object) -> None:
    with pytest.raises(TypeError, match=r"options\.extra\[1\] is a "):
        canonical({"options": {"extra": [1, value]}})


def test_path_is_refused_with_advice() -> None:
    with pytest.raises(TypeError, match="file_digest"):
        digest({"weights": Path("model.safetensors")})


@pytest.mark.parametrize("key", [True, None, 1.5, (1, 2)])
def test_odd_dict_keys_are_refused(key: object) -> None:
    with pytest.raises(TypeError, match="key"):
        canonical({key: 1})


def test_two_keys_of_one_spelling_are_refused() -> None:
    with pytest.raises(ValueError, match="'1'"):
        canonical({1: "a", "1": "b"})


def test_file_digest_is_sha256_and_is_remembered(weights: Path, reads: list[str]) -> None:
    expected = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert [file_digest(weights) for _ in range(3)] == [expected] * 3
    assert len(reads) == 1
    assert file_digest(weights, fresh=True) == expected
    assert len(reads) == 2


def test_links_share_what_is_remembered(weights: Path, reads: list[str], tmp_path: Path) -> None:
    link = tmp_path / "snapshot"
    link.symlink_to(weights)
    assert file_digest(link) == file_digest(weights) == file_digest(os.path.relpath(weights))
    assert len(reads) == 1


def test_change_that_keeps_size_and_mtime_is_seen(weights: Path) -> None:
    before, status = file_digest(weights), weights.stat()
    with weights.open("r+b") as file:
        file.write(b"\xff")
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert weights.stat().st_mtime_ns == status.st_mtime_ns
    assert file_digest(weights) == hashlib.sha256(weights.read_bytes()).hexdigest() != before


def test_change_right_after_hashing_is_seen_by_a_coarse_clock(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = digests._identity
    in_ticks = {"mtime_ns", "ctime_ns"}
    monkeypatch.setattr(
        digests,
        "_identity",
        lambda status: {
            name: number // 10_000_000 if name in in_ticks else number for name, number in identity(status).items()
        },
    )
    for byte in range(20):
        with weights.open("r+b") as file:
            file.write(bytes([byte]))
        assert file_digest(weights) == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_replaced_file_is_seen(weights: Path, tmp_path: Path) -> None:
    before = file_digest(weights)
    other = tmp_path / "other"
    other.write_bytes(bytes(weights.stat().st_size))
    os.replace(other, weights)
    assert file_digest(weights) != before


@pytest.mark.parametrize(
    "junk", ["", "{", "[]", "null", '{"sha256": 1}', "[" * 100_000, "\0\xff", '{"sha256": "' + "0" * 64 + '"}']
)
def test_junk_note_is_ignored(weights: Path, library_home: Path, junk: str) -> None:
    expected = file_digest(weights)
    (note,) = library_home.glob("digests/*/*.json")
    note.write_text(junk, encoding="latin-1")
    assert file_digest(weights) == expected
    assert json.loads(note.read_text())["sha256"] == expected


@pytest.mark.parametrize("field", ["path", "size", "mtime_ns", "ctime_ns", "inode"])
def test_note_of_another_file_is_ignored(weights: Path, library_home: Path, reads: list[str], field: str) -> None:
    expected = file_digest(weights)
    (note,) = library_home.glob("digests/*/*.json")
    content = json.loads(note.read_text())
    note.write_text(json.dumps({**content, "sha256": "0" * 64, field: "x" if field == "path" else 1}))
    assert file_digest(weights) == expected
    assert len(reads) == 2


def test_home_that_cannot_be_written_is_no_error(weights: Path, library_home: Path, reads: list[str]) -> None:
    library_home.write_text("a file where the folder should be")
    assert file_digest(weights) == file_digest(weights)
    assert len(reads) == 2


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        file_digest(tmp_path / "nothing")


def test_file_that_keeps_changing_is_an_error(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = hashlib.file_digest

    def write_meanwhile(file: Any, name: str) -> object:
        with weights.open("ab") as other:
            other.write(b"more")
        return real(file, name)

    monkeypatch.setattr(hashlib, "file_digest", write_meanwhile)
    with pytest.raises(ArtifactError, match="changed three times"):
        file_digest(weights)


def test_notes_about_missing_files_are_forgotten(weights: Path, library_home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"x")
    file_digest(weights)
    file_digest(other)
    other.unlink()
    assert forget_missing() == 1
    (note,) = library_home.glob("digests/*/*")
    assert json.loads(note.read_text())["path"] == str(weights)


def test_what_json_has_no_form_for_becomes_text_and_sets_get_an_order() -> None:
    given = {"dtype": Path("a"), "kinds": {"b", "a", "c"}, 1: (1.5, None, True)}
    assert json_safe(given) == {"dtype": "a", "kinds": ["a", "b", "c"], "1": [1.5, None, True]}


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_become_none_where_json_needs_it(number: float) -> None:
    assert json_safe({"a": [1.5, (number,)]}, finite=True) == {"a": [1.5, [None]]}
    assert json_safe(number) is number
