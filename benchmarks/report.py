"""Tables for people and JSON for programs, of the same figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.rounds import Results
from benchmarks.systems import System


@dataclass(frozen=True)
class Figure:
    """Something that is measured of every system."""

    key: str
    title: str
    unit: str
    lower_is_better: bool = False


@dataclass(frozen=True, kw_only=True)
class Part:
    """One table's worth of results."""

    title: str
    figures: tuple[Figure, ...]
    systems: Sequence[System]
    results: Results

    def pairs(self) -> Iterator[tuple[System, System]]:
        """Ours with each peer that keeps the same weights; with those that run the checkpoint as it is, all of ours."""
        for peer in self.systems:
            for ours in self.systems:
                if ours.is_ours and not peer.is_ours and peer.weights in ("checkpoint", ours.weights):
                    yield ours, peer


@dataclass(frozen=True)
class Table:
    """Text in rows."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def measured_table(part: Part) -> Table:
    """Medians, and the least and the greatest round; a reason where there is nothing."""
    columns = ["system", *(f"{figure.title}, {figure.unit}" for figure in part.figures)]
    if part.results.memory_bytes:
        columns.append("peak GiB")
    rows = [[system.name, *_measured_cells(part, system)] for system in part.systems]
    padded = [row + [""] * (len(columns) - len(row)) for row in rows]
    return Table(f"{part.title}: median (least to greatest round)", columns, padded)


def _measured_cells(part: Part, system: System) -> list[str]:
    results, name = part.results, system.name
    if name in results.failures:
        return [results.failures[name]]
    cells = [_spread(results.values(name, figure.key), _three_digits) for figure in part.figures]
    memory = results.memory_bytes.get(name)
    return cells if memory is None else [*cells, f"{memory / (1 << 30):.1f}"]


def ratio_table(part: Part) -> Table:
    """How many times as fast ours is, from pairs measured in the same round."""
    columns = ["ours", "peer", *(figure.title for figure in part.figures)]
    rows = []
    for ours, peer in part.pairs():
        speedups = [_speedups(part.results, ours, peer, figure) for figure in part.figures]
        if any(speedups):
            rows.append([ours.name, peer.name, *(_spread(values, "{:.2f}".format) for values in speedups)])
    return Table(f"{part.title}: how many times as fast ours is (above 1: ours is faster)", columns, rows)


def _speedups(results: Results, ours: System, peer: System, figure: Figure) -> list[float]:
    ratios = results.ratios(ours.name, peer.name, figure.key)
    return [1 / ratio for ratio in ratios] if figure.lower_is_better else ratios


def _spread(values: list[float], form: Callable[[float], str]) -> str:
    if not values:
        return ""
    middle = form(median(values))
    return middle if len(values) == 1 else f"{middle} ({form(min(values))} to {form(max(values))})"


def _three_digits(value: float) -> str:
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def to_json(part: Part) -> dict[str, Any]:
    """All values of a part. Ratios are ours divided by the peer's figure, as measured, not turned round."""
    return {
        "title": part.title,
        "figures": {f.key: {"unit": f.unit, "lower_is_better": f.lower_is_better} for f in part.figures},
        "systems": {system.name: _system_json(part, system) for system in part.systems},
        "ratios": [
            {"ours": ours.name, "peer": peer.name, "figure": figure.key, **_summary(ratios)}
            for ours, peer in part.pairs()
            for figure in part.figures
            if (ratios := part.results.ratios(ours.name, peer.name, figure.key))
        ],
    }


def _system_json(part: Part, system: System) -> dict[str, Any]:
    results, name = part.results, system.name
    found: dict[str, Any] = {"version": system.version, "weights": system.weights}
    if name in results.failures:
        return {**found, "failure": results.failures[name]}
    measured = {f.key: _summary(values) for f in part.figures if (values := results.values(name, f.key))}
    more = {"peak_memory_bytes": results.memory_bytes.get(name), "agreement": results.agreement.get(name)}
    return {**found, "figures": measured, **{key: value for key, value in more.items() if value is not None}}


def _summary(values: list[float]) -> dict[str, Any]:
    return {"median": median(values), "least": min(values), "greatest": max(values), "values": values}
