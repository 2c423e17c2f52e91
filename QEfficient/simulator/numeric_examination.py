"""Examines a model's graph on prompts: what the card's numerics lose, where, and which nodes need float32.

    examine             one pass over the prompts, float32 and fp16 (and MX formats) side by side
      Tally             what is counted for a node
    keep_in_fp32        on overflow: more nodes in float32 until nothing overflows
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from QEfficient.simulator import numerics
from QEfficient.simulator.configuration import NodePrecision
from QEfficient.simulator.graph_precision import Policy
from QEfficient.simulator.graph_runs import LOGITS, GraphRun, State, Step, whole_operations
from QEfficient.simulator.numeric_report import LayerNumerics, NodeFinding, NumericReport
from QEfficient.simulator.program import Lowering

NUM_DECODED = 4
"""Tokens at a prompt's end that go one by one, as an answer's do: they read the state as the card keeps it."""
_MAX_ROUNDS = 8
_OVERFLOW = 65520.0
"""From here on a value is infinite in fp16."""
_KEYS_AND_VALUES = ("past_key.", "past_value.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A graph, and how it was compiled."""

    model: Path
    """The ONNX file that the compiler was given."""
    sizes: Mapping[str, int]
    """Of the graph's named axes for a single sequence, other than ``seq_len``."""
    chunk_len: int
    """Prompt tokens of a step."""
    layers: Sequence[str] = ()
    """Names of the values that leave the layers."""
    computes_fp16: bool = True
    mxfp6: bool = False
    mxint8: bool = False
    nodes: NodePrecision = field(default_factory=NodePrecision)


def examine(subject: Subject, prompts: Sequence[Sequence[int]]) -> NumericReport:
    """Run prompts with an empty state each, in the chunks that were compiled.

    Args:
        subject: the graph.
        prompts: token ids of each, at least one and no more than the state holds.

    Raises:
        Rejected: the simulated compiler would refuse an operator of the graph.
        CompileError: the graph has an input that a prompt does not fill.
    """
    with tempfile.TemporaryDirectory(prefix="qeff-sim-") as folder:
        bench = _Bench(subject, Path(folder))
        steps = [plan_steps(ids, subject.chunk_len) for ids in prompts]
        half = bench.fp16(subject.nodes)
        layers, logits = [name for name in subject.layers if name in bench.wide.nodes], _LogitTally()
        variants = _variants(subject, bench, half)
        tallies = bench.compare(half, steps, _Sinks(layers, variants, logits))
        overflowing = [name for name, tally in tallies.items() if tally.num_overflowed]
        fixed, unresolved = keep_in_fp32(bench, steps, subject.nodes, tallies) if overflowing else (subject.nodes, [])
    nodes = bench.wide.nodes
    return NumericReport(
        computes_fp16=subject.computes_fp16,
        num_positions=logits.num_positions,
        first_overflow=_first(tallies, bench.wide, "num_overflowed"),
        first_underflow=_first(tallies, bench.wide, "num_underflowed"),
        num_overflowing=len(overflowing),
        layers=[_layer(name, variants) for name in layers],
        logit_noise=logits.largest if logits.is_finite else None,
        noise_margin=logits.widest if logits.is_finite else None,
        fp32_nodes=[name for name in bench.wide.names if name in fixed.fp32 - subject.nodes.fp32],
        unresolved_nodes=[name for name in nodes if name in unresolved],
    )


def plan_steps(ids: Sequence[int], chunk_len: int) -> list[Step]:
    """A prompt in chunks, its last NUM_DECODED tokens one by one."""
    num_chunked = max(len(ids) - NUM_DECODED, 1)
    begins = [*range(0, num_chunked, chunk_len), *range(num_chunked, len(ids))]
    ends = [min(begin + chunk_len, num_chunked) if begin < num_chunked else begin + 1 for begin in begins]
    return [Step(ids[begin:end], begin) for begin, end in zip(begins, ends, strict=True)]


@dataclass(slots=True)
class Tally:
    """What became of a node's values."""

    largest: float = 0.0
    num_overflowed: int = 0
    num_underflowed: int = 0

    def add(self, wide: NDArray, half: NDArray) -> None:
        """Count values of float32 and of fp16."""
        finite = np.isfinite(wide)
        self.largest = max(self.largest, float(np.abs(wide[finite]).max(initial=0.0)))
        self.num_overflowed += int((finite & ~np.isfinite(half)).sum())
        self.num_underflowed += int(((wide != 0) & (half == 0)).sum())


class _ErrorTally:
    def __init__(self) -> None:
        self._error = self._norm = 0.0

    def add(self, exact: NDArray, a: NDArray, b: NDArray) -> None:
        with np.errstate(invalid="ignore"):
            self._error += float(np.square(a.astype(np.float64) - b).sum())
        self._norm += float(np.square(exact.astype(np.float64)).sum())

    @property
    def relative(self) -> float:
        error = np.sqrt(self._error / max(self._norm, 1e-30))
        return float(error) if np.isfinite(error) else np.inf


class _LogitTally:
    def __init__(self) -> None:
        self.largest = self.widest = 0.0
        self.num_positions, self.is_finite = 0, True

    def add(self, exact: NDArray, ours: NDArray) -> None:
        for wide, own in zip(exact.reshape(-1, exact.shape[-1]), ours.reshape(-1, ours.shape[-1]), strict=True):
            difference = own[np.isfinite(wide)] - wide[np.isfinite(wide)]
            self.num_positions += 1
            self.is_finite &= bool(np.isfinite(difference).all())
            self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))
            # What all logits share moves no token past another.
            self.widest = max(self.widest, float(np.ptp(difference)) if difference.size else 0.0)


@dataclass
class _Variant:
    """fp16 with further formats, beside plain fp16; ``run`` is that of fp16 itself where only the state differs."""

    label: str
    run: GraphRun
    mxint8: bool
    errors: dict[str, _ErrorTally] = field(default_factory=dict)
    state: State = field(default_factory=dict)

    def store(self, name: str, value: NDArray) -> NDArray:
        """What is left of state on the card."""
        if not np.issubdtype(value.dtype, np.floating):
            return value
        is_block = self.mxint8 and name.startswith(_KEYS_AND_VALUES)
        return numerics.round_mxint8(value) if is_block else numerics.round_fp16(value)


@dataclass
class _Sinks:
    layers: Sequence[str] = ()
    variants: Sequence[_Variant] = ()
    """The first is fp16, the last is as compiled."""
    logits: _LogitTally = field(default_factory=_LogitTally)

    def add(self, variant: _Variant, wide: State, half: State, own: State) -> None:
        """Values of a step by name: of float32, of fp16, of the variant."""
        for name in self.layers:
            tally = variant.errors.setdefault(name, _ErrorTally())
            tally.add(wide[name], own[name], wide[name] if variant is self.variants[0] else half[name])
        if variant is self.variants[-1]:
            self.logits.add(wide[LOGITS], own[LOGITS])


class _Bench:
    """The runs of one examination."""

    def __init__(self, subject: Subject, folder: Path):
        self._subject, self._folder, self._numbers = subject, folder, count()
        self.wide = self._run(Lowering(policy=Policy(fp16=False)))

    def fp16(self, nodes: NodePrecision, *, mxfp6: bool = False) -> GraphRun:
        variant = os.environ.get("QEFF_SIM_MX", "aic") if mxfp6 else None
        return self._run(Lowering(policy=Policy(fp16=True, nodes=nodes), mxfp6_variant=variant))

    def _run(self, lowering: Lowering) -> GraphRun:
        folder = self._folder / str(next(self._numbers))
        return GraphRun(self._subject.model, folder, lowering, self._subject.sizes)

    def compare(
        self, half: GraphRun, prompts: Sequence[Sequence[Step]], sinks: _Sinks | None = None
    ) -> dict[str, Tally]:
        """Run float32 and ``half``, node by node, and the variants of ``sinks`` beside them."""
        sinks = sinks or _Sinks()
        tallies = {name: Tally() for name in self.wide.nodes if name in half.nodes}
        plain = sinks.variants[0] if sinks.variants else _Variant("fp16", half, mxint8=False)
        for steps in prompts:
            wide_state, plain.state = self.wide.empty_state(), half.empty_state()
            for variant in sinks.variants[1:]:
                variant.state = half.empty_state()
            for step in steps:
                self._step(step, wide_state, plain, tallies, sinks)
        return tallies

    def _step(
        self, step: Step, wide_state: State, plain: _Variant, tallies: Mapping[str, Tally], sinks: _Sinks
    ) -> None:
        names, kept = list(tallies), {*sinks.layers, LOGITS}
        wide, half = {}, {}
        exact = self.wide.values(step, wide_state, names, lambda _, value: value)
        rounded = plain.run.values(step, plain.state, names, plain.store)
        for (name, a), (_, b) in zip(exact, rounded, strict=True):
            tallies[name].add(a, b)
            if name in kept:
                wide[name], half[name] = a, b
        for variant in sinks.variants:
            own = half
            if variant is not plain:
                own = dict(variant.run.values(step, variant.state, sorted(kept), variant.store))
            sinks.add(variant, wide, half, own)


def _variants(subject: Subject, bench: _Bench, half: GraphRun) -> list[_Variant]:
    made = [_Variant("fp16", half, mxint8=False)]
    blocks = bench.fp16(subject.nodes, mxfp6=True) if subject.mxfp6 else half
    if subject.mxfp6:
        made.append(_Variant("mxfp6", blocks, mxint8=False))
    if subject.mxint8:
        made.append(_Variant("mxint8", half, mxint8=True))
    if subject.mxfp6 and subject.mxint8:
        made.append(_Variant("both", blocks, mxint8=True))
    return made


def _first(tallies: Mapping[str, Tally], run: GraphRun, counted: str) -> NodeFinding | None:
    for name, tally in tallies.items():
        if number := getattr(tally, counted):
            node = run.nodes[name]
            return NodeFinding(
                name=name, op_type=node.op_type, layer=node.layer, largest=tally.largest, num_values=number
            )
    return None


def _layer(name: str, variants: Sequence[_Variant]) -> LayerNumerics:
    errors = {variant.label: variant.errors[name].relative for variant in variants if variant.label != "both"}
    return LayerNumerics(layer=int(name.rpartition(".")[2]), **errors)


def keep_in_fp32(
    bench: _Bench, prompts: Sequence[Sequence[Step]], given: NodePrecision, tallies: Mapping[str, Tally]
) -> tuple[NodePrecision, list[str]]:
    """Find nodes to keep in float32 so that nothing overflows.

    A node whose values are beyond fp16 stays in float32, and so do all that read them: a reader in fp16 would read
    them rounded. Where errors then still add up to an overflow, the nodes that begin it are taken too.

    Returns:
        ``given`` with more names, and the nodes that overflow whatever stays in float32.
    """
    nodes, known = bench.wide.nodes, bench.wide.names
    beyond = {name for name, tally in tallies.items() if tally.largest >= _OVERFLOW}
    chosen, left = given, _sources(bench.wide, tallies)
    for _ in range(_MAX_ROUNDS):
        beyond |= left
        taken = beyond.union(*(nodes[name].readers for name in beyond))
        fp32 = chosen.fp32 | whole_operations(taken, known)
        if fp32 == chosen.fp32:
            break
        chosen = replace(chosen, fp32=fp32, fp16=chosen.fp16 - fp32)
        left = _sources(bench.wide, bench.compare(bench.fp16(chosen), prompts))
        if not left:
            break
    return chosen, sorted(left)


def _sources(run: GraphRun, tallies: Mapping[str, Tally]) -> set[str]:
    """Nodes that overflow and read nothing that does."""
    overflowing = {name for name, tally in tallies.items() if tally.num_overflowed}
    return overflowing.difference(*(run.nodes[name].readers for name in overflowing))
