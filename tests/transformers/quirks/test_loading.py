"""Quirks are imported by model type, and name what transformers has."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from transformers import CONFIG_MAPPING

from QEfficient.transformers import quirks
from QEfficient.transformers.quirks import REASONS, load

ROOT = Path(__file__).parents[3]
LOWER = """
import json, sys
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, LlamaConfig, T5Config
from QEfficient.transformers.tasks.causal_lm import paged_graph, retained_graph
from QEfficient.transformers.tasks.seq2seq_lm import seq2seq_graph

sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
llama = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, num_attention_heads=2))
t5 = AutoModelForSeq2SeqLM.from_config(T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
retained_graph(llama, 32)
paged_graph(llama, 32)
seq2seq_graph(t5, 32)
print(json.dumps(sorted(name for name in sys.modules if name.startswith("QEfficient.transformers.quirks."))))
"""


def modeling_file(model_type: str) -> ModuleType:
    """The file of transformers with the modules of a model type."""
    config_file = CONFIG_MAPPING[model_type].__module__
    return import_module(config_file.replace(".configuration_", ".modeling_"))


def test_models_without_quirks_import_none() -> None:
    ran = subprocess.run([sys.executable, "-c", LOWER], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == []


def test_every_quirk_has_a_file_and_every_file_a_reason() -> None:
    files = {path.stem for path in Path(quirks.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == {model_type.replace("-", "_") for model_type in REASONS}


@pytest.mark.parametrize("document", ["README.md", "docs/source/index.md"])
def test_documents_have_their_number(document: str) -> None:
    assert f"{len(REASONS)} model types" in (ROOT / document).read_text(encoding="utf-8")


def test_a_model_type_without_quirks_loads_none() -> None:
    assert load("llama") is None
    assert load(None) is None


@pytest.mark.parametrize("model_type", REASONS)
def test_overrides_name_what_transformers_has(model_type: str) -> None:
    quirk, file = load(model_type), modeling_file(model_type)
    assert quirk is not None
    assert quirk.methods or quirk.functions or quirk.recomputed or quirk.prefix
    for name in quirk.methods:
        owner, _, method = name.partition(".")
        assert callable(getattr(getattr(file, owner), method)), name
    for name in quirk.functions:
        assert callable(getattr(file, name)), name
