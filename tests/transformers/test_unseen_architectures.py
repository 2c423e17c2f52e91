"""Architectures that the library has no word of: they work, or say before any work why they do not."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import QEfficient
from QEfficient import QEFFAutoModelForCausalLM
from QEfficient.errors import UnsafeCheckpoint, UnsupportedModel
from QEfficient.transformers.quantizers.auto import FORMATS

CODE = Path(__file__).parent / "remote_code"
PROMPT_LENS = (5, 37, 70)


def checkpoint(folder: Path, **changes: Any) -> Path:
    """A card with Python files of its own and random weights."""
    shutil.copytree(CODE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    auto_map = {"AutoConfig": "configuration_toy.ToyConfig", "AutoModelForCausalLM": "modeling_toy.ToyForCausalLM"}
    written = {"model_type": "toy_of_the_tests", "architectures": ["ToyForCausalLM"], "auto_map": auto_map, **changes}
    (folder / "config.json").write_text(json.dumps(written))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    weights = {
        name: torch.randn_like(weight) * 0.3 if weight.ndim > 1 else weight.detach().clone()
        for name, weight in model.named_parameters()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("cards") / "toy")


@pytest.mark.parametrize("target", ["cpu", pytest.param("cloud-ai-100-sim", marks=pytest.mark.sweep)])
def test_remote_code_in_the_conventions_of_v5(toy: Path, target: str) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(toy, trust_remote_code=True, dtype=torch.float32)
    random = torch.Generator().manual_seed(1)
    prompts = [torch.randint(3, 320, (length,), generator=random).tolist() for length in PROMPT_LENS]
    expected = [
        theirs.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0)
        for ids in prompts
    ]
    model = QEFFAutoModelForCausalLM.from_pretrained(toy, trust_remote_code=True)
    model.compile(target=target, precision="fp32", prefill_seq_len=16, ctx_len=96, full_batch_size=2)
    found = model.generate(prompts, generation_len=16).generated_ids
    assert len({*found[2].tolist()}) > 3
    assert [ids.tolist() for ids in found] == [
        answer[0, len(ids) :].tolist() for ids, answer in zip(prompts, expected, strict=True)
    ]


def test_remote_code_has_to_be_allowed(toy: Path) -> None:
    with pytest.raises(UnsafeCheckpoint, match="trust_remote_code"):
        QEFFAutoModelForCausalLM.from_pretrained(toy)


def test_an_unknown_state_kind_is_refused_before_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ["conv", "full_attention", "toy_mystery", "sliding_attention"]
    card = checkpoint(tmp_path / "mystery", layer_types=kinds)
    model = QEFFAutoModelForCausalLM.from_pretrained(card, trust_remote_code=True)
    monkeypatch.setattr(model, "export_plan", lambda plan: pytest.fail("the export began"))
    with pytest.raises(UnsupportedModel) as caught:
        model.compile(target="cpu", ctx_len=96)
    message = str(caught.value)
    assert "Layer 2 of ToyForCausalLM" in message
    assert "'toy_mystery'" in message
    assert "See 'Adding a state kind' in the documentation." in message
    assert (Path(QEfficient.__file__).parents[1] / "docs/source/adding_a_state_kind.md").is_file()


ROOT = Path(QEfficient.__file__).parent
TABLE = ROOT / "transformers" / "quirks" / "__init__.py"
METHODS = ROOT / "transformers" / "quantizers" / "auto.py"


def literals(tree: ast.AST) -> list[str]:
    """All texts of a file that are no docstrings."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs]
    return [node.value for node in found if isinstance(node.value, str)]


def compared_with_model_type(tree: ast.AST) -> list[str]:
    """Comparisons of something called ``model_type`` with a text or texts."""
    compared = [node for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    return [
        ast.unparse(node)
        for node in compared
        if "model_type" in ast.unparse(node)
        and any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in ast.walk(node))
    ]


@pytest.mark.parametrize(
    "path", sorted(set(ROOT.rglob("*.py")) - {TABLE}), ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_model_type_outside_the_quirks_table(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert compared_with_model_type(tree) == []
    methods = {*FORMATS} if path == METHODS else set()  # of quantisation, of which one is called as a model
    assert sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() & {*literals(tree)} - methods) == []


def test_the_search_finds_what_it_is_for() -> None:
    assert compared_with_model_type(ast.parse('if config.model_type == "llama": pass')) != []
    assert literals(ast.parse('"""Doc."""\nname = "llama"')) == ["llama"]


def test_the_quirks_table_is_small_and_has_reasons() -> None:
    from QEfficient.transformers.quirks import REASONS

    assert len(REASONS) <= 46
    assert all(len(reason) > 20 for reason in REASONS.values())
