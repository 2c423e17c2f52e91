"""From a resolved plan to a package: the program that a target's compiler makes, and what lies beside it.

A program is a separate artifact, so that packages which differ only in what is settled at open share its bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.compile.qpc import link_program
from QEfficient.contract import (
    COMMAND_FILE,
    MODEL_GRAPH,
    PROGRAM,
    SIDE_FILES,
    CompileJob,
    Compiler,
    GraphRecord,
    OpenOptions,
    PackageBody,
    Plan,
)
from QEfficient.options import CompileOptions
from QEfficient.progress import long_stage
from QEfficient.store.artifacts import Artifact, home
from QEfficient.store.digests import digest, json_safe
from QEfficient.store.files import storage_errors, user_path
from QEfficient.store.records import read_record
from QEfficient.store.source_version import source_version
from QEfficient.targets import Target

if TYPE_CHECKING:
    from QEfficient.base.modeling_qeff import PathLike, QEFFBaseModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """Everything that one call of ``compile`` settled, checked, and nothing of it made yet."""

    model: QEFFBaseModel[Any, Any]
    plan: Plan
    """Resolved."""
    record: Any
    """What the task's session will need."""
    jobs: Mapping[str, CompileJob]
    """One for each graph."""
    side_files: Mapping[str, str]
    """Digests of what :meth:`QEfficient.base.modeling_qeff.QEFFBaseModel.write_side_files` writes, by name."""
    compiler: Compiler
    target: Target
    options: CompileOptions

    @cached_property
    def program_ingredients(self) -> dict[str, Any]:
        """What decides the compiled files."""
        return {
            "onnx": self.model.export_ingredients(self.plan),
            "target": self.target.name,
            "compiler": {name: self.compiler.key(job) for name, job in self.jobs.items()},
            "library": source_version(),
        }

    @cached_property
    def ingredients(self) -> dict[str, Any]:
        """What decides the package."""
        return {
            "program": self.program_ingredients,
            "task": self.model.task,
            "session": asdict(self.record),
            "open": asdict(OpenOptions.of(self.options, self.target)),
            "side_files": self.side_files,
        }

    def package(self, folder: Path) -> dict[str, Any]:
        """Build the package in ``folder``; returns its manifest's body."""
        program = self._program()
        program.link_into(folder)
        link_program(folder)
        if self.side_files:
            self._side_files().link_into(folder)
        graphs = program.manifest.body["graphs"]
        body = PackageBody(
            task=self.model.task,
            target=self.target.name,
            architecture=self.model.model_name,
            lowering=self.plan.lowering,
            graphs={name: read_record(GraphRecord, graphs[name], f"graphs.{name}") for name in graphs},
            session=asdict(self.record),
            open=OpenOptions.of(self.options, self.target),
            options=json_safe(asdict(self.options)),
        )
        return asdict(body)

    def _program(self) -> Artifact:
        def build(folder: Path) -> dict[str, Any]:
            onnx = self.model.export_plan(self.plan)
            with long_stage("Compiling", f"{self.model.model_name} for {self.target.name}"):
                graphs = {name: self._compile(name, onnx, folder) for name in self.jobs}
            onnx.link_into(folder, {file for graph in graphs.values() for file in graph.data_files})
            return {"graphs": {name: asdict(graph) for name, graph in graphs.items()}}

        return self.model.store_or_folder(PROGRAM, self.program_ingredients, build)

    def _compile(self, name: str, onnx: Artifact, root: Path) -> GraphRecord:
        exported = onnx.manifest.body["graphs"][name]
        compiled = self.compiler.compile(onnx.file(exported["file"]), _graph_folder(root, name), self.jobs[name])
        return GraphRecord(
            folder="" if name == MODEL_GRAPH else name,
            inputs=compiled.inputs,
            outputs=compiled.outputs,
            layers=tuple(exported["layers"]),
            num_layers=exported["num_layers"],
            onnx_key=onnx.manifest.key,
            data_files=compiled.data_files,
        )

    def _side_files(self) -> Artifact:
        """As a separate artifact: a tokenizer may be larger than everything else of a package."""

        def build(folder: Path) -> dict[str, Any]:
            self.model.write_side_files(folder)
            return {}

        return self.model.store_or_folder(SIDE_FILES, {"files": self.side_files}, build)

    def dry_run(self, folder: PathLike | None) -> Path:
        """Export, write what the compiler reads, and say its command; returns the folder."""
        onnx = self.model.export_plan(self.plan)
        key = digest(self.program_ingredients)
        path = user_path(folder) if folder is not None else home() / "dry-runs" / key[:16]
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        commands = []
        for name, job in self.jobs.items():
            onnx_path = onnx.file(onnx.manifest.body["graphs"][name]["file"])
            commands.append(self.compiler.compile(onnx_path, _graph_folder(path, name), job).command or "")
        (path / COMMAND_FILE).write_text("\n".join(commands) + "\n", encoding="utf-8")
        logger.warning("Dry run: nothing was compiled. What the compiler would read is in %s.", path)
        return path


def _graph_folder(root: Path, graph: str) -> Path:
    """A graph's folder: the root for a task's only graph."""
    folder = root if graph == MODEL_GRAPH else root / graph
    folder.mkdir(exist_ok=True)
    return folder
