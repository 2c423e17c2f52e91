"""Records from JSON, as if a stranger had written it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from QEfficient.contract import Binding, GraphRecord, OpenOptions, PackageBody
from QEfficient.errors import CorruptArtifact
from QEfficient.store.records import read_record


@dataclass(frozen=True)
class Inner:
    size: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    kind: Literal["a", "b"]
    inner: Inner
    by_name: dict[str, Inner] = field(default_factory=dict)
    share: float = 0.5
    length: int | None = None


GOOD: dict[str, Any] = {"kind": "a", "inner": {"size": 3, "names": ["x"]}, "by_name": {"y": {"size": 1}}, "share": 1}


def test_what_was_written_is_read() -> None:
    assert read_record(Outer, GOOD, "outer") == Outer("a", Inner(3, ("x",)), {"y": Inner(1)}, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "c"}, r"outer.kind is 'c', expected one of 'a', 'b'"),
        ({"kind": None}, r"outer.kind is None"),
        ({"inner": [1]}, r"outer.inner is \[1\], expected an object"),
        ({"inner": {}}, r"outer.inner lacks the field 'size'"),
        ({"inner": {"size": True}}, r"outer.inner.size is True, expected a int"),
        ({"inner": {"size": "3"}}, r"outer.inner.size is '3'"),
        ({"inner": {"size": 3, "names": ["x", 4]}}, r"outer.inner.names\[1\] is 4, expected a str"),
        ({"by_name": {"y": {"size": 1, "extra": 2}}}, r"outer.by_name.y has the unknown field 'extra'"),
        ({"share": False}, r"outer.share is False, expected a float"),
        ({"length": 1.5}, r"outer.length is 1.5, expected a int"),
        ({"new": 1}, r"outer has the unknown field 'new'"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CorruptArtifact, match=f"{message}.*[Cc]ompile again"):
        read_record(Outer, {**GOOD, **change}, "outer")


@pytest.mark.parametrize("value", [None, 3, [], "{}"])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(CorruptArtifact, match="expected an object"):
        read_record(Outer, value, "outer")


def package() -> dict[str, Any]:
    binding = Binding(dtype="int64", shape=(-1, 1), axes=("batch_size", ""))
    graph = GraphRecord(folder="model", inputs={"input_ids": binding}, outputs={"logits": binding}, layers=("h",))
    body = PackageBody(
        task="causal_lm",
        target="cpu",
        architecture="LlamaForCausalLM",
        lowering="paged",
        graphs={"model": graph},
        session={"ctx_len": 64},
        open=OpenOptions(precision="bf16"),
        options={},
    )
    return dataclasses.asdict(body)


def test_a_package_says_all_or_is_refused() -> None:
    read_record(PackageBody, package(), "package")
    for name, value in package().items():
        if name != "parity":
            with pytest.raises(CorruptArtifact, match=f"lacks the field '{name}'"):
                read_record(PackageBody, {key: item for key, item in package().items() if key != name}, "package")
        with pytest.raises(CorruptArtifact, match=f"package.{name}"):
            read_record(PackageBody, {**package(), name: 7 if not isinstance(value, int) else "7"}, "package")


@pytest.mark.parametrize("name", ["folder", "inputs", "outputs"])
def test_a_graph_says_where_it_is_and_what_it_takes(name: str) -> None:
    body = package()
    del body["graphs"]["model"][name]
    with pytest.raises(CorruptArtifact, match=f"package.graphs.model lacks the field '{name}'"):
        read_record(PackageBody, body, "package")
