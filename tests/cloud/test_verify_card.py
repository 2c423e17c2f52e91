"""``qefficient verify`` for a card: what it says about fp16, and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
import torch
from cloud.commands import Cli, save

CARD = ("--target", "cloud-ai-100-sim", "--ctx-len", "64", "--prefill-seq-len", "16", "--generation-len", "4")


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose MLP goes beyond fp16 and comes back."""
    model = tiny_models.causal_lm("llama", num_hidden_layers=1)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight *= 1e5
        model.model.layers[0].mlp.down_proj.weight /= 1e5
    return save(model, tmp_path_factory.mktemp("overflowing"))


def test_overflow_and_its_cure(cli: Cli, overflowing: Path, tmp_path: Path) -> None:
    nodes = tmp_path / "nodes.yaml"
    result = cli("verify", overflowing, *CARD, "--node-precision-info-out", nodes)
    assert result.code == 1
    assert "fp16 overflow: " in result.out
    assert f"--node-precision-info {nodes}" in result.out
    found = cli("verify", overflowing, *CARD, "--node-precision-info", nodes, "--json")
    assert found.code == 0
    assert found.json["agrees"]
    assert found.json["numerics"]["first_overflow"] is None
    assert found.json["numerics"]["num_positions"] > 4


def test_names_are_said_where_no_file_is_asked_for(cli: Cli, overflowing: Path) -> None:
    result = cli("verify", overflowing, *CARD, "-p", "My name is")
    assert result.code == 1
    assert "to keep in float32: " in result.out
    assert "--node-precision-info-out FILE" in result.out


def test_the_processor_reads_no_such_file(cli: Cli, overflowing: Path, tmp_path: Path) -> None:
    result = cli("verify", overflowing, "--target", "cpu", "--node-precision-info-out", tmp_path / "nodes.yaml")
    assert result.code == 2
    assert "'cpu'" in result.err
    assert "Loading" not in result.err, "found before the model is loaded"
