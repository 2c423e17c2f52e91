"""The benchmark runs end to end on a tiny shape, and its figures mean what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.answers import Answer, decode_rate, first_token_s  # noqa: E402
from benchmarks.preparing import groups, prepare  # noqa: E402
from benchmarks.report import Figure, Part, measured_table, ratio_table  # noqa: E402
from benchmarks.rounds import Results, rotated  # noqa: E402
from benchmarks.settings import Settings  # noqa: E402
from benchmarks.systems import SYSTEMS, choose  # noqa: E402
from benchmarks.worker import Worker, WorkerFailed  # noqa: E402
from QEfficient.errors import OptionError  # noqa: E402


@pytest.mark.sweep
def test_ours_and_hugging_face_on_a_tiny_shape(tmp_path: Path) -> None:
    arguments = ["--quick", "--shapes", "tiny", "--systems", "ours,hf-fp32", "--parts", "generation"]
    arguments += ["--prompt-len", "24", "--work-dir", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.run", *arguments]
    run = subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "hf-fp32" in run.stdout
    (part,) = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert set(part["systems"]) == {"ours", "hf-fp32"}
    for system in part["systems"].values():
        assert system["agreement"] >= 0.5  # another model would agree on one in 512; bf16 processors round differently
        assert all(figure["median"] > 0 for figure in system["figures"].values())
    (prefill, _, _) = part["ratios"]
    assert prefill["figure"] == "prefill_s"
    ours, peer = (part["systems"][name]["figures"]["prefill_s"]["median"] for name in ("ours", "hf-fp32"))
    assert prefill["median"] == pytest.approx(ours / peer)


def test_decode_rate_counts_only_while_all_sequences_decode() -> None:
    early, late = [1.0, 2.0, 3.0, 4.0, 5.0], [3.0, 4.0, 5.0, 6.0, 7.0]
    answer = Answer([[0] * 5] * 2, [early, late])
    assert first_token_s(answer) == 3.0
    assert decode_rate(answer) == pytest.approx(4 / 2)  # two tokens of each between 3 and 5
    with pytest.raises(ValueError, match="more new tokens"):
        decode_rate(Answer([[0]] * 2, [[1.0], [2.0]]))


def test_every_peer_meets_ours_within_the_memory() -> None:
    systems = list(SYSTEMS.values())
    made = groups(systems, num_weights=1_236_000_000, memory_bytes=18 << 30)
    peers = [system for system in systems if not system.is_ours]
    assert [system for group in made for system in group if not system.is_ours] == peers
    assert all([system for system in group if system.is_ours] == systems[:3] for group in made)
    assert len(made) > 1
    assert len(groups(systems, num_weights=1_000_000, memory_bytes=18 << 30)) == 1


def test_a_missing_peer_is_a_row(tmp_path: Path) -> None:
    missing = replace(SYSTEMS["onnxruntime-genai-int8"], distribution="no-such-distribution")
    settings = Settings(
        work_dir=tmp_path, num_rounds=1, num_new_tokens=16, prompt_len=8, num_threads=1, memory_bytes=1 << 30
    )
    results = Results()
    assert prepare([missing], tmp_path, settings, results) == []
    part = Part(title="", figures=(Figure("a", "a", "s"),), systems=[missing], results=results)
    (row,) = measured_table(part).rows
    assert row[:2] == [missing.name, "not installed: pip install no-such-distribution"]


def test_ratios_are_taken_within_a_round_and_above_one_is_faster() -> None:
    ours, peer = SYSTEMS["ours"], SYSTEMS["hf-fp32"]
    rounds = [{ours.name: {"s": 1.0}, peer.name: {"s": 2.0}}, {ours.name: {"s": 3.0}, peer.name: {"s": 9.0}}]
    results = Results(rounds=[*rounds, {ours.name: {"s": 100.0}}])
    part = Part(title="", figures=(Figure("s", "s", "s", lower_is_better=True),), systems=[ours, peer], results=results)
    (row,) = ratio_table(part).rows
    assert row[2] == "2.50 (2.00 to 3.00)"


def test_a_worker_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed, match="IndexError: pop from empty list"):
        Worker("builtins:list", {}, tmp_path / "log", num_threads=1).call("pop")


def test_names_of_systems() -> None:
    assert [system.name for system in choose(["hf-*", "ours"])] == ["ours", "hf-bf16", "hf-fp32"]
    assert rotated(["a", "b", "c"], 1) == ["b", "c", "a"]
    with pytest.raises(OptionError, match="Did you mean 'hf-bf16'"):
        choose(["hf-bf61"])
