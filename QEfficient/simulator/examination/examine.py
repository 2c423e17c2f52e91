"""Runs a model's graph on prompts with the card's numerics: measures errors per node, and selects nodes for float32.

examine             one pass over the prompts, float32 and fp16 (and MX formats) side by side
  Tally             counts of a node
keep_in_fp32        on overflow: more nodes in float32 until nothing overflows
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from QEfficient.contract import RETAINED
from QEfficient.simulator import numerics
from QEfficient.simulator.compiler.configuration import NodePrecision
from QEfficient.simulator.compiler.program import Lowering
from QEfficient.simulator.examination.graph_runs import LOGITS, GraphRun, State, Step
from QEfficient.simulator.examination.result import Examination, LayerErrors, LossyNode
from QEfficient.simulator.examination.tallies import OVERFLOW, ErrorTally, LogitTally, Tally
from QEfficient.simulator.passes.precision import Policy
from QEfficient.store.leftovers import scratch_folder

NUM_DECODED = 4
"""Last tokens of a prompt, run one by one as in decoding: they read the state as the card stores it."""
_MAX_ROUNDS = 8
_KEYS_AND_VALUES = ("past_key.", "past_value.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A graph and its compile options."""

    model: Path
    """The compiler's ONNX file."""
    sizes: Mapping[str, int]
    """Sizes of the graph's named axes for a single sequence, other than ``seq_len``."""
    chunk_len: int
    """Prompt tokens per step."""
    layers: Sequence[str] = ()
    """Names of the layers' outputs."""
    mxfp6: bool = False
    mxint8: bool = False
    nodes: NodePrecision = field(default_factory=NodePrecision)


def examine(subject: Subject, prompts: Sequence[Sequence[int]]) -> Examination:
    """Run each prompt with an empty state, in the compiled chunks.

    Args:
        subject: the graph.
        prompts: token ids of each, at least one and no more than the state holds.

    Raises:
        Rejected: the simulated compiler rejects an operator of the graph.
        CompileError: the graph has an input that does not come from a prompt.
    """
    with scratch_folder() as folder:
        bench = _Bench(subject, folder)
        steps = [plan_steps(ids, subject.chunk_len) for ids in prompts]
        half = bench.fp16(subject.nodes)
        layers, logits = [name for name in subject.layers if name in bench.wide.nodes], LogitTally()
        variants = _variants(subject, bench, half)
        tallies = bench.compare(half, steps, _Sinks(layers, variants, logits))
        overflowing = _overflowing(tallies)
        fixed, unresolved = keep_in_fp32(bench, steps, subject.nodes, tallies) if overflowing else (subject.nodes, [])
    return Examination(
        num_positions=logits.num_positions,
        first_overflow=_first(tallies, bench.wide, "num_overflowed"),
        first_underflow=_first(tallies, bench.wide, "num_underflowed"),
        num_overflowing=len(overflowing),
        layers=[_layer(name, variants) for name in layers],
        logit_noise=logits.largest if logits.is_finite else None,
        noise_margin=logits.widest if logits.is_finite else None,
        fp32_nodes=[name for name in bench.wide.names if name in fixed.fp32 - subject.nodes.fp32],
        unresolved_nodes=unresolved,
    )


def plan_steps(ids: Sequence[int], chunk_len: int) -> list[Step]:
    """A prompt in chunks, its last NUM_DECODED tokens one by one."""
    num_chunked = max(len(ids) - NUM_DECODED, 1)
    begins = [*range(0, num_chunked, chunk_len), *range(num_chunked, len(ids))]
    ends = [min(begin + chunk_len, num_chunked) if begin < num_chunked else begin + 1 for begin in begins]
    return [Step(ids[begin:end], begin) for begin, end in zip(begins, ends, strict=True)]


@dataclass
class _Variant:
    """fp16 with further formats, beside plain fp16; shares the run of fp16 if only the state differs."""

    label: str
    run: GraphRun
    mxint8: bool
    errors: dict[str, ErrorTally] = field(default_factory=dict)
    state: State = field(default_factory=dict)

    def store(self, name: str, value: NDArray) -> NDArray:
        """State as the card stores it."""
        if not np.issubdtype(value.dtype, np.floating):
            return value
        is_block = self.mxint8 and name.startswith(_KEYS_AND_VALUES)
        return numerics.round_mxint8(value) if is_block else numerics.round_fp16(value)


@dataclass
class _Sinks:
    layers: Sequence[str] = ()
    variants: Sequence[_Variant] = ()
    """The first is fp16, the last is as compiled."""
    logits: LogitTally = field(default_factory=LogitTally)

    def add(self, variant: _Variant, wide: State, half: State, values: State) -> None:
        """Add a step's values by name: of float32, of fp16, of the variant."""
        for name in self.layers:
            tally = variant.errors.setdefault(name, ErrorTally())
            tally.add(wide[name], values[name], wide[name] if variant is self.variants[0] else half[name])
        if variant is self.variants[-1]:
            self.logits.add(wide[LOGITS], values[LOGITS])


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
        """Tally float32 against ``half`` node by node; the variants of ``sinks`` run beside them."""
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
            values = half
            if variant is not plain:
                values = dict(variant.run.values(step, variant.state, sorted(kept), variant.store))
            sinks.add(variant, wide, half, values)


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


def _first(tallies: Mapping[str, Tally], run: GraphRun, counted: str) -> LossyNode | None:
    for name, tally in tallies.items():
        if number := getattr(tally, counted):
            node = run.nodes[name]
            return LossyNode(
                name=name,
                op_type=node.op_type,
                layer=node.layer,
                largest=tally.largest,
                num_lost=number,
                num_values=tally.num_values,
            )
    return None


def _layer(name: str, variants: Sequence[_Variant]) -> LayerErrors:
    errors = {variant.label: variant.errors[name].relative for variant in variants if variant.label != "both"}
    return LayerErrors(layer=int(name.rpartition(".")[2]), **errors)


def keep_in_fp32(
    bench: _Bench, prompts: Sequence[Sequence[Step]], compiled: NodePrecision, tallies: Mapping[str, Tally]
) -> tuple[NodePrecision, list[str]]:
    """Choose nodes to keep in float32 so that nothing overflows.

    A node with values beyond fp16 stays in float32, and so do its readers, which in fp16 would read them rounded. Where
    accumulated errors still overflow, the nodes where that starts are added.

    Returns:
        ``compiled`` with more names and nothing; or, if no choice of nodes is enough, ``compiled`` and the nodes that
        still overflow: state, which the card stores in fp16.
    """
    nodes = bench.wide.nodes
    beyond = {name for name, tally in tallies.items() if tally.largest >= OVERFLOW}
    chosen = compiled
    for _ in range(_MAX_ROUNDS):
        beyond |= _sources(bench.wide, tallies)
        taken = beyond.union(*(nodes[name].readers for name in beyond))
        fp32 = chosen.fp32 | taken
        if fp32 == chosen.fp32:
            break
        chosen = replace(chosen, fp32=fp32, fp16=chosen.fp16 - fp32)
        tallies = bench.compare(bench.fp16(chosen), prompts)
        if not _overflowing(tallies):
            return chosen, []
    left = _overflowing(tallies)
    states = [name for name in left if name.endswith(RETAINED) and tallies[name].largest >= OVERFLOW]
    return compiled, states or left


def _overflowing(tallies: Mapping[str, Tally]) -> list[str]:
    return [name for name, tally in tallies.items() if tally.num_overflowed]


def _sources(run: GraphRun, tallies: Mapping[str, Tally]) -> set[str]:
    """Nodes that overflow without reading an overflow, in this step or from the state of the last step."""
    overflowing = _overflowing(tallies)
    passed_on = [run.nodes[name].readers for name in overflowing]
    passed_on += [run.state_readers.get(name.removesuffix(RETAINED), frozenset()) for name in overflowing]
    return set(overflowing).difference(*passed_on)
