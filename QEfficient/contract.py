"""Types that the stages share: tensor names, specializations, plans, compile jobs, package descriptions.

Needs neither torch nor numpy. Independent of models, tasks and targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Self

from QEfficient.options import CompileOptions, Precision

if TYPE_CHECKING:
    from QEfficient.targets import Target

RETAINED = "_RetainedState"
"""Suffix of an output that becomes the input of the same name without the suffix."""
FEATURES, DEEPSTACK, FIRST_ROW, INDEX = "vision_embeds", "deepstack_features", "image_idx", "vision_index"
"""Inputs of a language model for images: rows of features, those that layers get besides, how many rows earlier steps
used up, and the row of each token. The first two are outputs of the encoder too."""
SEEN, SEEN_LENS = "vision_mask", "vision_lens"
"""Inputs of a language model with cross-attention to images: the parts of images that each token sees, and how many
states a prompt's images have."""
NEXT_ROW = "image_idx_output"
LORA_IDS, BASE = "lora_ids", "base"
ROPE_LENS = "rope_lens"
"""Input with the number of the adapter of each row, or of each token of a ragged batch; 0 is the base
model, and what it is called where adapters are by name."""
TEXT_VECTORS = "text_embeds"
"""Output of a graph for texts: their vectors in the space that images are in too."""
NO_TOKEN = -2
"""Stands for the id of a token that stands for a row of features, where any token may; no id, and not padding."""
COMMAND_FILE = "command.txt"
"""The file in which a dry run leaves the compiler's command."""
PACKAGE, PROGRAM, ONNX, SIDE_FILES = "package", "program", "onnx", "side-files"
"""Kinds of artifacts."""
MODEL_GRAPH = "model"
"""The graph of a task that has one; its compiled files lie at the package's root."""

LoweringName = Literal["retained", "paged", "encoder"]
"""How a model's attention and state become a graph. "encoder": no state between runs."""
Json = Any
"""A value that JSON has a form for."""


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a number of a package may have; its reader refuses others."""

    least: int
    most: int = 2**63 - 1


Count = Annotated[int, Range(1)]
"""A size or a number of things."""
_MOST_DEVICES = 1024
_FAR = 1 << 24


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameRule:
    """How many frames a model makes of a signal: one every ``stride`` places, ``offset`` places early."""

    stride: Annotated[int, Range(1, _FAR)]
    offset: Annotated[int, Range(-_FAR, _FAR)] = 0

    def num_frames(self, length: int) -> int:
        """Frames of a signal of ``length`` samples or features."""
        return max(0, (length + self.offset) // self.stride)

    def length(self, num_frames: int) -> int:
        """The shortest signal of so many frames."""
        return max(1, num_frames * self.stride - self.offset)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides a model's graphs besides the model. Each task has a subclass."""

    VERSION: ClassVar[int] = 1
    """Changes with the meaning of a field."""

    lowering: LoweringName
    transforms: tuple[str, ...] = ()
    """Rewrites of the ONNX graph, by their module's name in ``exporter/transforms``."""

    def key(self) -> dict[str, Json]:
        """The plan as plain values: equal plans have equal keys, whatever their class is called."""
        return {"version": self.VERSION, **{item.name: _plain(getattr(self, item.name)) for item in fields(self)}}

    def replaced(self, **changes: object) -> Self:
        """This plan with other values."""
        return replace(self, **changes)  # type: ignore[arg-type]


def _plain(value: object) -> Json:
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)  # type: ignore[call-overload]
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Specialization:
    """One shape that the compiled model can run at."""

    name: str
    """"Prefill", "Decode" and so on; unique in a job."""
    symbols: Mapping[str, int]
    """The size of each named axis of the graph."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileJob:
    """How to compile one graph."""

    specializations: tuple[Specialization, ...]
    """In the order that clients rely on: the first prefills, if any does."""
    options: CompileOptions

    def fixed_symbols(self) -> dict[str, int]:
        """The axes that have one size in all specializations."""
        if not self.specializations:
            return {}
        first, *others = (specialization.symbols for specialization in self.specializations)
        return {name: size for name, size in first.items() if all(other.get(name) == size for other in others)}

    def option(self, name: str) -> Any:
        """The option called ``name``, or None where the task has none."""
        return getattr(self.options, name, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """An input or output of a compiled graph."""

    dtype: str
    shape: tuple[Annotated[int, Range(-1)], ...]
    """-1 where it varies."""
    axes: tuple[str, ...] = ()
    """Names of the axes, "" for one that has none; empty where the compiler settled all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompiledGraph:
    """A compiler's description of the graph that it compiled."""

    inputs: dict[str, Binding]
    outputs: dict[str, Binding]
    data_files: tuple[str, ...] = ()
    """Files beside the exported graph that the compiled one reads too; a package has them in its root."""
    command: str | None = None
    """Of a dry run: the command that it did not run."""


class Compiler(Protocol):
    """Compiles graphs for one target, with one SDK."""

    def check(self, job: CompileJob) -> None:
        """Report errors before anything is exported.

        Raises:
            OptionError: an option is impossible, or contradicts another.
            TargetUnavailable: the compiler is not on this machine.
            UnsupportedModel: the target cannot run such a graph.
        """
        ...

    def key(self, job: CompileJob) -> dict[str, Json]:
        """Everything that decides what :meth:`compile` makes of a graph, and nothing else."""
        ...

    def compile(self, onnx_path: Path, folder: Path, job: CompileJob) -> CompiledGraph:
        """Write the compiled graph into ``folder``, which exists.

        Raises:
            CompileError: the compiler failed; has its output.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphRecord:
    """One compiled graph of a package."""

    folder: str
    """Where its files are, relative to the package's root; "" for the root."""
    inputs: dict[str, Binding]
    outputs: dict[str, Binding]
    layers: tuple[str, ...] = ()
    """Names of the values that leave the model's layers, in order."""
    num_layers: Annotated[int, Range(0)] = 0
    onnx_key: str = ""
    """Key of the artifact that holds the exported graph."""
    data_files: tuple[str, ...] = ()
    """Files in the package's root with weights that several graphs may read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenOptions:
    """Options that apply when a session starts, so that the compiled files do not depend on them."""

    precision: Precision | None = None
    num_threads: Count | None = None
    num_devices: Annotated[int, Range(1, _MOST_DEVICES)] = 1
    compiler_options: dict[str, Json] = field(default_factory=dict)
    """Raw properties for the runtime of a target that compiles when it opens; of a package, none but those of
    ``Target.package_properties``."""

    @classmethod
    def of(cls, options: CompileOptions, target: Target) -> Self:
        """The options of ``compile`` that apply when a package opens."""
        return cls(
            precision=options.precision,
            num_threads=options.num_threads,
            num_devices=options.num_devices if target.has_devices else 1,
            compiler_options=dict(options.compiler_options) if target.package_properties else {},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageBody:
    """A compiled package's description of itself. Read strictly: see :mod:`QEfficient.store.records`."""

    task: str
    target: str
    architecture: str
    lowering: LoweringName
    graphs: dict[str, GraphRecord]
    session: dict[str, Json]
    """The record of the task's session; the task's runtime half has its type."""
    open: OpenOptions
    options: dict[str, Json]
    """The options of ``compile``."""
    parity: dict[str, Json] | None = None
    """The newest report of ``verify``."""

    @property
    def graph(self) -> GraphRecord:
        """The only graph of a package that has one."""
        (record,) = self.graphs.values()
        return record
