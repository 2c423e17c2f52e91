"""Measuring several systems side by side: one at a time, in turn, round after round.

A machine's speed drifts, so systems are compared within a round and never across runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.worker import Worker, WorkerFailed
from QEfficient.progress import stage

SETTLE_S = 0.5
"""Pause before each request: thread pools of the system before it spin for a while before they sleep."""

Figures = dict[str, float]
Round = dict[str, Figures]
Measure = Callable[[str, Worker, int], Figures]
"""From a system's name, its worker and the round's number (0 is the warm-up) to its figures."""


@dataclass
class Results:
    """What was measured of each system, and why some were not."""

    rounds: list[Round] = field(default_factory=list)
    """``rounds[i][system][figure]``. Systems that do not fit into memory together are in different rounds."""
    failures: dict[str, str] = field(default_factory=dict)
    memory_bytes: dict[str, int] = field(default_factory=dict)
    """The most memory each system's process has held."""
    agreement: dict[str, float] = field(default_factory=dict)
    """How near each system's results are to the reference's, 1 being the same: evidence that they run one model."""

    def values(self, system: str, figure: str) -> list[float]:
        """A figure of one system, round by round."""
        return [one[system][figure] for one in self.rounds if figure in one.get(system, {})]

    def ratios(self, ours: str, peer: str, figure: str) -> list[float]:
        """Ours divided by the peer, within each round that has both."""
        both = [(one.get(ours, {}), one.get(peer, {})) for one in self.rounds]
        return [mine[figure] / theirs[figure] for mine, theirs in both if figure in mine and figure in theirs]


def run_rounds(workers: Mapping[str, Worker], num_rounds: int, measure: Measure, results: Results) -> None:
    """Add ``num_rounds`` rounds to ``results``, after one more that warms up and is forgotten.

    A system that fails drops out; the others go on.
    """
    for number in range(num_rounds + 1):
        with stage("Measuring", f"round {number} of {num_rounds}" if number else "nothing yet: warming up"):
            figures = _one_round(workers, number, measure, results)
        if number:
            results.rounds.append(figures)
    for system, worker in workers.items():
        if system not in results.failures:
            results.memory_bytes[system] = worker.peak_memory_bytes()


def _one_round(workers: Mapping[str, Worker], number: int, measure: Measure, results: Results) -> Round:
    figures: Round = {}
    for system in rotated(list(workers), number):
        if system in results.failures:
            continue
        time.sleep(SETTLE_S)
        try:
            figures[system] = measure(system, workers[system], number)
        except WorkerFailed as error:
            results.failures[system] = str(error)
    return figures


def rotated(items: list[str], by: int) -> list[str]:
    """Another one begins each round, so that nobody always follows the same neighbour."""
    by %= max(1, len(items))
    return items[by:] + items[:by]
