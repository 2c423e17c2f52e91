"""The targets: what each can do, as data, and where its compiler and its programs come from. Stages ask the row, never
the name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.contract import Compiler, LoweringName
from QEfficient.errors import OptionError, TargetUnavailable, nearest
from QEfficient.options import HONOURED, IGNORED, CompileOptions

if TYPE_CHECKING:
    from QEfficient.generation.programs.program import OpenProgram


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One place where models run.

    ``compiler`` and ``program`` name what is imported when it is needed, as ``module:attribute``, so that listing the
    targets costs nothing and needs no SDK.
    """

    name: str
    description: str
    backend: str
    """The compiler whose support of options applies: "qaic" or "openvino", or another name."""
    lowerings: tuple[LoweringName, ...]
    """Fastest first."""
    ignored_options: frozenset[str] = frozenset()
    """Options without effect here, besides those that declare it."""
    refused_options: dict[str, str] = field(default_factory=dict)
    """Options that cannot be honoured here, and what to use instead, besides those that declare it."""
    prefill_seq_len: int
    """Default size of a prompt chunk."""
    ctx_len: int = 128
    """Default context, as far as the model and this machine's memory allow it."""
    has_static_shapes: bool
    """Whether each run must have one of the compiled shapes, so that a batch has a fixed number of rows."""
    has_devices: bool = False
    """Whether a program runs on numbered devices, one or several."""
    has_card_numerics: bool = False
    """Whether it computes as Cloud AI 100 does: fp16, MXFP6 weights, MXINT8 state."""
    takes_layer_functions: bool = False
    """Whether its compiler takes repeated layers as one function (``use_onnx_subfunctions``)."""
    compiler: str
    """Gives the compiler for some options: ``(Target, CompileOptions) -> Compiler``."""
    program: str
    """Opens a compiled graph: :class:`QEfficient.generation.programs.program.OpenProgram`."""
    choose_devices: str = ""
    """Chooses devices that a caller does not name, for all graphs of a package: ``(Target, count) -> QIDs``."""
    package_properties: str = ""
    """The dataclass of the raw properties that a package may bring along, as ``module:attribute``; "": none."""
    why_unavailable: Callable[[], str | None]
    """Says what this machine lacks to compile for it, or None."""
    graph_transforms: tuple[str, ...] = ()
    """Rewrites of the ONNX graph, by their module's name in ``exporter/transforms``, in this order."""
    sdk_root: Callable[[], Path] | None = None
    """Where its SDK is; None: where the SDK is usually installed."""

    def load_compiler(self, options: CompileOptions) -> Compiler:
        """The compiler for these options, with its SDK; chosen once per job."""
        compiler: Compiler = load(self.compiler)(self, options)
        return compiler

    def load_program(self) -> OpenProgram:
        """The function that opens a compiled graph on this target."""
        opener: OpenProgram = load(self.program)
        return opener

    def transforms(self, options: CompileOptions) -> tuple[str, ...]:
        """The rewrites of the ONNX graph for these options, in order."""
        functions = options.use_onnx_subfunctions and self.takes_layer_functions
        return (*self.graph_transforms, *(("layer_functions",) if functions else ()))

    def refusal(self, cls: type[CompileOptions], name: str) -> str | None:
        """Why an option cannot have another value than its default here, or None if it can."""
        support = cls.support(name, self.backend)
        return self.refused_options.get(name, None if support in (HONOURED, IGNORED) else support)

    def ignores(self, cls: type[CompileOptions], name: str) -> bool:
        """Whether an option has no effect here."""
        return name in self.ignored_options or cls.support(name, self.backend) == IGNORED

    def check(self, options: CompileOptions, passed: Sequence[str]) -> list[str]:
        """Refuse what cannot be honoured.

        Args:
            options: parsed.
            passed: names of those that the caller passed.

        Returns:
            Names of passed options that have no effect here.

        Raises:
            OptionError: one is refused; says what to use instead.
        """
        defaults = type(options)()
        for name in sorted(passed):
            value = getattr(options, name)
            if value != getattr(defaults, name) and (why := self.refusal(type(options), name)) is not None:
                raise OptionError(f"{name}={value!r}: {why}.")
        return sorted(name for name in passed if self.ignores(type(options), name))


def load(entry: str) -> Any:
    """The object that ``module:attribute`` names."""
    module, _, attribute = entry.partition(":")
    return getattr(import_module(module), attribute)


def _later(entry: str) -> Callable[[], Any]:
    """A function whose module is imported when it is called."""
    return lambda: load(entry)()


_CLOUD_AI_100 = Target(
    name="cloud-ai-100",
    description="Qualcomm Cloud AI 100",
    backend="qaic",
    lowerings=("retained",),
    prefill_seq_len=32,
    has_static_shapes=True,
    has_devices=True,
    has_card_numerics=True,
    takes_layer_functions=True,
    graph_transforms=("pack_int4_linears", "clip_to_fp16", "custom_rms_norm"),
    compiler="QEfficient.compile.cloud_ai_100:load_compiler",
    program="QEfficient.generation.programs.qaic:open_program",
    choose_devices="QEfficient.generation.programs.qaic:choose_devices",
    why_unavailable=_later("QEfficient.compile.qaic_sdk:why_unavailable"),
)

_CLOUD_AI_100_SIM = replace(
    _CLOUD_AI_100,
    name="cloud-ai-100-sim",
    description="a simulator of the card, with its numerics, on this machine's processor",
    sdk_root=_later("QEfficient.compile.cloud_ai_100:simulated_sdk"),
    why_unavailable=lambda: None,
)


def _openvino_missing() -> str | None:
    return None if find_spec("openvino") else "the package 'openvino' is not installed: pip install openvino"


_CPU = Target(
    name="cpu",
    description="this machine's processor, through OpenVINO",
    backend="openvino",
    lowerings=("paged", "retained"),
    prefill_seq_len=512,
    ctx_len=4096,
    has_static_shapes=False,
    graph_transforms=("pack_linears", "pack_experts"),
    compiler="QEfficient.compile.openvino_compiler:load_compiler",
    program="QEfficient.generation.programs.openvino:open_program",
    package_properties="QEfficient.compile.openvino_properties:PackageProperties",
    why_unavailable=_openvino_missing,
)

TARGETS: dict[str, Target] = {target.name: target for target in (_CLOUD_AI_100, _CPU, _CLOUD_AI_100_SIM)}


def choose_target(name: str | None = None, *, is_dry_run: bool = False) -> Target:
    """The target called ``name``, else that of ``QEFF_TARGET``, else the first that works on this machine.

    Raises:
        OptionError: there is no such target.
        TargetUnavailable: it cannot run on this machine; says why and which can.
    """
    asked = name or os.environ.get("QEFF_TARGET")
    if asked is None:
        return next(target for target in TARGETS.values() if target.why_unavailable() is None)
    if asked not in TARGETS:
        hint = nearest(asked.lower(), TARGETS)
        raise OptionError(f"There is no target '{asked}'.{hint} Known: {', '.join(TARGETS)}.")
    problem = TARGETS[asked].why_unavailable()
    if problem is not None and not is_dry_run:
        working = [target.name for target in TARGETS.values() if target.why_unavailable() is None]
        raise TargetUnavailable(f"Target '{asked}' cannot run here: {problem}. Works here: {', '.join(working)}.")
    return TARGETS[asked]
