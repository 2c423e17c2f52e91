"""The base of the compiled packages of all tasks. Neither torch nor transformers is imported here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from QEfficient.contract import MODEL_GRAPH, Binding, GraphRecord, LoweringName, OpenOptions, PackageBody
from QEfficient.errors import ArtifactError, CorruptArtifact, OptionError
from QEfficient.generation.programs.program import Opening, Program
from QEfficient.generation.tokenizer import FOLDER, ForeignTokenizer, PackageTokenizer, open_tokenizer
from QEfficient.options import CompileOptions
from QEfficient.output import name_warnings
from QEfficient.store.manifest import Artifact
from QEfficient.store.records import read_record
from QEfficient.targets import TARGETS, Target, load

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

name_warnings()
RecordT = TypeVar("RecordT")
_NOTHING = Binding(dtype="", shape=())
_AT_OPEN = ("precision", "num_threads", "compiler_options")


class CompiledModel(Generic[RecordT]):
    """A compiled package, opened and ready to run.

    Attributes:
        artifact: the package's folder and manifest.
        body: the manifest's description of the package.
        record: what the task's session needs.
        device_ids: the devices to run on; None: those with the most free cores.
    """

    task: ClassVar[str]
    record_class: ClassVar[type[Any]]
    """The dataclass of ``body.session``."""
    input: ClassVar[str] = "input_ids"
    """Name of what the graph reads, ``[batch, length]``."""
    output: ClassVar[str]
    """Name of the graph's result."""
    lowerings: ClassVar[tuple[LoweringName, ...]]
    """Those that its sessions run."""
    graph_names: ClassVar[tuple[tuple[str, ...], ...]] = ((MODEL_GRAPH,),)
    """The graphs that a package may have; the last is the one with the result."""
    options_class: ClassVar[type[CompileOptions]] = CompileOptions
    """What knows the names and ranges of settings."""
    takes_chat: ClassVar[bool] = False
    """Whether it takes conversations, a length and sampling."""
    takes_images: ClassVar[bool] = False
    """Whether prompts may have images."""
    reads_texts: ClassVar[bool] = False
    """Whether :meth:`tabulate` makes a row of each text or pair of texts."""

    def __init__(
        self,
        artifact: Artifact,
        body: PackageBody,
        device_ids: Sequence[int] | None = None,
        settings: Mapping[str, Any] | None = None,
    ):
        """
        Args:
            artifact: verified.
            body: its manifest's.
            device_ids: see the class.
            settings: values that override those of the compilation: ``precision``, ``num_threads``,
                ``compiler_options``, and the sizes that the task's record takes.

        Raises:
            OptionError: a setting is unknown, or was settled when the package was compiled.
            CorruptArtifact: the description is not one of this task, or does not fit itself.
        """
        self.artifact, self.body, self.device_ids = artifact, body, device_ids
        self.target = self._find_target()
        self._check_graphs()
        self._check_properties()
        record: RecordT = read_record(self.record_class, body.session, f"{artifact.path}: session")
        self.record, self._open_options = self._settled(record, dict(settings or {}))
        self._load()

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Run the package; the class of each task says what with."""
        raise NotImplementedError

    def _load(self) -> None:
        """Load what :meth:`generate` runs, from what the package and the settings say."""
        raise NotImplementedError

    def _find_target(self) -> Target:
        if self.body.target not in TARGETS:
            raise ArtifactError(
                f"{self.path} was compiled for '{self.body.target}', and this version knows {', '.join(TARGETS)}."
            )
        return TARGETS[self.body.target]

    def _check_graphs(self) -> None:
        graphs = self.body.graphs
        if not self._has_known_graphs():
            raise self._not_ours(f"its graphs are {', '.join(graphs) or 'none'}")
        if self.body.lowering not in self.lowerings or self.body.lowering not in (*self.target.lowerings, "encoder"):
            raise self._not_ours(f"its lowering is '{self.body.lowering}' on '{self.target.name}'")
        for name, graph in graphs.items():
            if graph.folder != ("" if name == MODEL_GRAPH else name):
                raise self._not_ours(f"the folder of the graph '{name}' is {graph.folder!r}")
            if missing := {*graph.data_files} - self.artifact.manifest.files.keys():
                raise self._not_ours(f"it has no file {sorted(missing)[0]!r}")
        self._check_result(self._result_graph)

    def _check_result(self, graph: GraphRecord) -> None:
        """Check the graph with the result."""
        if self.output not in graph.outputs or len(graph.inputs.get(self.input, _NOTHING).shape) != 2:
            raise self._not_ours(f"its graph has no {self.input} [batch, length] or no {self.output}")

    def _has_known_graphs(self) -> bool:
        return sorted(self.body.graphs) in [sorted(names) for names in self.graph_names]

    def _check_properties(self) -> None:
        """Refuse what would reach beyond the package: files, plug-ins, the machine's devices and threads."""
        name, properties = self.target.package_properties, self.body.open.compiler_options
        if name:
            read_record(load(name), properties, f"{self.path}: open.compiler_options")
        elif properties:
            raise self._not_ours(f"it brings compiler_options {', '.join(properties)} to '{self.target.name}'")

    @property
    def _result_graph(self) -> GraphRecord:
        return next(self.body.graphs[names[-1]] for names in self.graph_names if names[-1] in self.body.graphs)

    def _check_width(self, output: str, size: int, name: str) -> None:
        """Compare the last axis of an output, which the compiled program confirms, with what the session is told.

        Raises:
            CorruptArtifact: they differ.
        """
        shape = self._result_graph.outputs[output].shape
        if not shape or shape[-1] not in (-1, size):
            raise self._not_ours(f"its graph gives {output} {list(shape)}, and it says {name}={size}")

    def _not_ours(self, what: str) -> CorruptArtifact:
        return CorruptArtifact(f"{self.path}: {what}, which is no {self.task} package. Compile again.")

    def _settled(self, record: RecordT, settings: dict[str, Any]) -> tuple[RecordT, OpenOptions]:
        """The record and the options to open with."""
        self.options_class.parse(settings)
        if settings and self.target.has_static_shapes:
            raise OptionError(
                f"{sorted(settings)[0]} was settled when {self.path} was compiled for '{self.target.name}': compile "
                "another package."
            )
        chosen = {name: settings.pop(name) for name in _AT_OPEN if name in settings}
        stored = self.body.open
        if "compiler_options" in chosen:
            chosen["compiler_options"] = stored.compiler_options | dict(chosen["compiler_options"])
        options = replace(stored, **chosen)
        return self.resized(record, **settings), options

    def resized(self, record: RecordT, **sizes: Any) -> RecordT:
        """The record for other sizes, which each task names, if the target sets them when a package opens.

        Raises:
            OptionError: the package has no such size.
            CapacityError: the graph does not support the size.
        """
        if sizes:
            name = sorted(sizes)[0]
            raise OptionError(
                f"{name} cannot be set when a package is opened: compile another one with {name}={sizes[name]!r}."
            )
        return record

    def open_program(
        self, graph: str = MODEL_GRAPH, sizes: Mapping[str, int] | None = None, extra_outputs: Sequence[str] = ()
    ) -> Program:
        """One of its compiled graphs, loaded. Arguments as of :class:`Opening`."""
        opening = self.opening(sizes, extra_outputs)
        return self.target.load_program()(self.target, self.path, self.body.graphs[graph], opening)

    def opening(self, sizes: Mapping[str, int] | None = None, extra_outputs: Sequence[str] = ()) -> Opening:
        """How its graphs are opened."""
        return Opening(
            options=self._open_options, sizes=sizes or {}, device_ids=self._devices, extra_outputs=extra_outputs
        )

    @cached_property
    def _devices(self) -> Sequence[int] | None:
        """Where all of its graphs run: the caller's devices, else free ones."""
        chooser = self.target.choose_devices
        if self.device_ids is not None or not chooser:
            return self.device_ids
        chosen: Sequence[int] = load(chooser)(self.target, self._open_options.num_devices)
        return chosen

    @property
    def path(self) -> Path:
        """The package's folder."""
        return self.artifact.path

    def tokenizer(self, tokenizer: PreTrainedTokenizerBase | None = None) -> Any:
        """The package's tokenizer, or ``tokenizer`` with the same methods.

        Raises:
            OptionError: ``tokenizer`` is none of transformers.
        """
        if tokenizer is None:
            return self._package_tokenizer
        if not callable(tokenizer) or not callable(getattr(tokenizer, "decode", None)):
            raise OptionError(f"tokenizer must be one of transformers, got {tokenizer!r}.")
        return ForeignTokenizer(tokenizer)

    @cached_property
    def _package_tokenizer(self) -> PackageTokenizer | ForeignTokenizer:
        return open_tokenizer(self.path / FOLDER)

    def describe(
        self, prompts: Sequence[Any], tokenizer: PreTrainedTokenizerBase | None = None
    ) -> tuple[list[dict[str, Any]], str]:
        """Run prompts for the command line: an entry per prompt for ``--json``, and the text to print.

        Args:
            prompts: texts; where it reads texts, also pairs.
            tokenizer: default: the package's.
        """
        raise NotImplementedError

    def tabulate(
        self, texts: Sequence[Any], tokenizer: PreTrainedTokenizerBase | None = None
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Run texts or pairs for a file: an array ``[n, ...]``, and an entry per text. Arguments as of
        :meth:`describe`."""
        raise NotImplementedError

    def close(self) -> None:
        """Release memory and devices."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
