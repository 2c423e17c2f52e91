"""Modeling code that asks for the name of its attention, and so may do another thing under ours than as loaded."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import transformers
from architectures.cases import check
from architectures.sizes import VARIANTS
from architectures.tiny import families

BRANCHES = {
    "falcon": "sdpa: attends in place, with ALiBi in the mask. Ours takes eager, without adding it again (quirk)",
    "gpt2": "eager: upcasts if the config says so. As loaded and ours: no",
    **dict.fromkeys(
        ("axk2", "deepseek_v32", "dots3_note", "glm_moe_dsa", "hy_v4", "minimax_m3_vl", "mistral_large4"),
        "eager or sdpa: puts the indexer's choice into the mask. Ours takes the choice as indices, and masks by them",
    ),
    "glm5_next": "sdpa: a mask of bools. Ours takes eager's, the same in floats",
    **dict.fromkeys(
        ("gemma4", "gemma4_unified"),
        "flex or sdpa: which tokens of a prompt the last layers may skip. Ours runs them all, to the same logits",
    ),
    "diffusion_gemma": "a mask of its own for names without one. Ours has one",
    "qwen2_5_omni": "eager: how its vision tower masks. Not text",
}
"""Architecture -> the branch on a name, what it is as loaded (SDPA, where there is one), and what it is under ours."""
NAME = "_attn_implementation"
LOOKUP = {f"{config}.{NAME}, eager_attention_forward" for config in ("self.config", "config")}
"""How most architectures pass on the name."""
TEXT = {*families()["causal_lm"], *families()["seq2seq"], *families()["sequence_classification"]}
TEXT |= {*families()["text_encoder"]}


def compared_names(file: Path) -> list[ast.Compare]:
    """Comparisons of an attention's name in a modeling file."""
    code = file.read_text(encoding="utf-8")
    if {line.strip() for line in code.splitlines() if NAME in line} <= LOOKUP:
        return []
    nodes = ast.walk(ast.parse(code))
    return [n for n in nodes if isinstance(n, ast.Compare) and NAME in ast.dump(n)]


def test_every_branch_was_looked_at() -> None:
    """Another release of transformers may bring more: compare what ``generate`` takes as loaded, then add a line."""
    models = Path(transformers.__file__).parent / "models"
    asking = {file.parent.name for file in models.glob("*/modeling_*.py") if compared_names(file)}
    folders = {model_type.replace("-", "_").removesuffix("_text") for model_type in TEXT}
    assert asking & folders <= BRANCHES.keys()
    assert BRANCHES.keys() <= asking


@pytest.mark.parametrize("target", ["cpu", "cloud-ai-100-sim"])
@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(name, marks=[pytest.mark.xdist_group(name), *([pytest.mark.sweep] if name == "falcon+rw" else [])])
        for name in VARIANTS
    ],
)
def test_ours_takes_the_branch_that_was_loaded(variant: str, target: str) -> None:
    row = check("causal_lm", variant, target)
    assert row["agrees"], row
