"""A graph that was exported before, named by the path of its ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.contract import ONNX, Plan
from QEfficient.errors import ArtifactNotFound, OptionError
from QEfficient.store.artifacts import Artifact, open_artifact
from QEfficient.store.digests import digest, json_safe
from QEfficient.store.files import user_path

if TYPE_CHECKING:
    from QEfficient.base.modeling_qeff import PathLike

_CURE = "Give the path that export() returned"


def open_exported(onnx_path: PathLike) -> Artifact:
    """The artifact of a graph.

    Raises:
        OptionError: it is no graph that ``export`` wrote.
        CorruptArtifact: its files are damaged.
    """
    path = user_path(onnx_path, "onnx_path")
    try:
        artifact = open_artifact(path.parent)
    except ArtifactNotFound as error:
        raise OptionError(
            f"onnx_path={str(path)!r} is no graph of this library, whose manifest says what made it. {_CURE}, or leave "
            "it out: compile() exports by itself."
        ) from error
    if artifact.manifest.kind != ONNX or not path.is_file():
        raise OptionError(f"onnx_path={str(path)!r} is no exported graph, but a {artifact.manifest.kind}. {_CURE}.")
    return artifact


def check_graph(onnx_path: PathLike, ingredients: Mapping[str, Any]) -> None:
    """Check that a graph is the one that a compilation needs.

    Raises:
        OptionError: it was exported from another model, or with other options; says what differs.
    """
    stored = open_exported(onnx_path).manifest
    if stored.key != digest(ingredients):
        needed = json_safe(ingredients)
        what = [name for name in needed if stored.ingredients.get(name) != needed[name]]
        raise OptionError(
            f"onnx_path={str(onnx_path)!r} is not the graph of this model with these options: its "
            f"{', '.join(what) or 'format'} differ. {_changes(stored.ingredients.get('plan'), needed['plan'])}"
        )


def stored_ingredients(artifact: Artifact, plan: Plan) -> dict[str, Any]:
    """What made a graph, which has to be right for ``plan``.

    Raises:
        OptionError: the graph was exported for another plan.
    """
    stored = artifact.manifest.ingredients
    if stored["plan"] != (needed := json_safe(plan.key())):
        raise OptionError(f"The graph in {artifact.path} does not fit. {_changes(stored['plan'], needed)}")
    return dict(stored)


def _changes(stored: Any, needed: Mapping[str, Any]) -> str:
    known = stored if isinstance(stored, Mapping) else {}
    changes = [
        f"{name}={known.get(name)!r}, needed {value!r}" for name, value in needed.items() if known.get(name) != value
    ]
    if not changes:
        return f"{_CURE}."
    return f"It was exported with {'; '.join(changes)}: give export() the options and the target of this compilation."


def graph_file(artifact: Artifact) -> Path:
    """The path of an export's first graph."""
    record = next(iter(artifact.manifest.body["graphs"].values()))
    return artifact.file(record["file"])
