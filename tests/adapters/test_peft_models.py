"""Adapters that take turns: their matrices are inputs, and switching compiles nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import tiny_models
from lora_adapters import answers, greedy, with_adapter, write_adapter

from QEfficient import QEffAutoLoraModelForCausalLM, QEFFAutoModelForCausalLM, QEffAutoPeftModelForCausalLM
from QEfficient.base.compilation import Compilation
from QEfficient.errors import CheckpointNotFound, LifecycleError, NumericError, OptionError
from QEfficient.generation.cloud_infer import QAICInferenceSession

LAYERS = {"a": "[qv]_proj", "b": "layers.1.*(o_proj|down_proj)", "small": "layers.0.*q_proj", "large": "[qv]_proj"}
RANKS = {"a": 3, "b": 2, "small": 2, "large": 4}
PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [30, 31]]
COMPILE = {"ctx_len": 32, "prefill_seq_len": 4, "full_batch_size": 2, "precision": "fp32"}
TARGETS = {
    "paged": {"target": "cpu"},
    "retained": {"target": "cpu", "lowering": "retained"},
    "card": {"target": "cloud-ai-100-sim", "num_cores": 4},
}


@cache
def base() -> Any:
    return tiny_models.causal_lm("llama")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model, and its adapters, whose configs name it."""
    root = tmp_path_factory.mktemp("adapters")
    tiny_models.save(base(), root / "base")
    for seed, (name, rank) in enumerate(RANKS.items()):
        write_adapter(root / name, base(), LAYERS[name], rank, seed, base_model_name_or_path=str(root / "base"))
    return root


def expected(root: Path, name: str) -> list[list[int]]:
    model = with_adapter(base(), None if name == "base" else root / name)
    return [greedy(model, ids) for ids in PROMPTS]


def loaded(root: Path) -> Any:
    model = QEffAutoPeftModelForCausalLM.from_pretrained(root / "a", adapter_name="a")
    assert model.load_adapter(root / "b", "b") == 2
    return model


@pytest.fixture(scope="module", params=list(TARGETS))
def compiled(root: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    with loaded(root) as model:
        model.compile(**COMPILE, **TARGETS[request.param])
        yield model


def test_switching_compiles_nothing(compiled: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Compilation, "package", None)
    seen = set()
    for name in ("a", "b", "base", "a"):
        compiled.set_adapter(name)
        wanted = expected(root, name)
        assert answers(compiled, PROMPTS) == wanted, name
        seen.add(tuple(wanted[0]))
    assert len(seen) == 3, "the adapters change the answer"


def test_an_adapter_that_is_no_larger_needs_no_compilation(compiled: Any, root: Path) -> None:
    compiled.load_adapter(root / "small", "small")
    compiled.load_adapter(root / "large", "large")
    try:
        compiled.set_adapter("small")
        assert answers(compiled, PROMPTS) == expected(root, "small")
        compiled.set_adapter("large")
        with pytest.raises(LifecycleError, match=r"rank 4 in .*, and .* was compiled for rank 3 there"):
            compiled.generate(PROMPTS)
    finally:
        compiled.unload_adapter("small")
        compiled.unload_adapter("large")
        compiled.set_adapter("a")
    assert answers(compiled, PROMPTS) == expected(root, "a")


def test_an_adapter_of_the_same_name_is_another(compiled: Any, root: Path) -> None:
    assert answers(compiled, PROMPTS) == expected(root, "a")
    compiled.unload_adapter("a")
    compiled.load_adapter(root / "small", "a")
    compiled.set_adapter("a")
    assert answers(compiled, PROMPTS) == expected(root, "small")
    compiled.unload_adapter("a")
    compiled.load_adapter(root / "a", "a")
    compiled.set_adapter("a")
    assert answers(compiled, PROMPTS) == expected(root, "a")


def test_a_package_has_its_adapters(compiled: Any, root: Path) -> None:
    with QEffAutoPeftModelForCausalLM.from_package(compiled.qpc_path) as opened:
        assert opened.adapters == ("a", "b")
        opened.set_adapter("b")
        assert answers(opened, PROMPTS) == expected(root, "b")
        opened.set_adapter("base")
        assert answers(opened, PROMPTS) == expected(root, "base")
        with pytest.raises(OptionError, match=r"no adapter 'c'.* Loaded are a, b"):
            opened.set_adapter("c")


def test_verify_runs_the_adapter(compiled: Any) -> None:
    assert compiled.verify([PROMPTS[0]], generation_len=4, adapter="b").agrees
    assert compiled.verify([PROMPTS[0]], generation_len=4).agrees
    with pytest.raises(OptionError, match="verify a merged model"):
        compiled.verify([PROMPTS[0]], node_precision_out="nodes.yaml")


def test_prompts_of_a_package_run_with_one_adapter(compiled: Any) -> None:
    with pytest.raises(OptionError, match="selects no adapters by prompt"):
        compiled.generate(PROMPTS, adapter=["a", "b"])


def test_no_adapter_changes_under_running_requests(compiled: Any) -> None:
    requests, _ = compiled._open()._requests(PROMPTS[:1], None, 4, {})
    tokens = compiled._open().engine.run(requests)
    next(tokens)
    compiled.set_adapter("b")
    with pytest.raises(LifecycleError, match="running"):
        compiled.generate(PROMPTS)
    tokens.close()
    compiled.set_adapter("a")


def test_a_card_gets_the_matrices_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[set[str]] = []
    set_buffers = QAICInferenceSession.set_buffers

    def noted(self: Any, buffers: Mapping[str, np.ndarray]) -> None:
        passed.append({name for name, value in buffers.items() if value.size})
        set_buffers(self, buffers)

    with loaded(root) as model:
        model.compile(**COMPILE, **TARGETS["card"])
        model.generate(PROMPTS, generation_len=2)
        monkeypatch.setattr(QAICInferenceSession, "set_buffers", noted)
        model.generate(PROMPTS, generation_len=4)
        assert not any("lora" in name for names in passed for name in names)
        passed.clear()
        model.set_adapter("b")
        model.generate(PROMPTS, generation_len=4)
        counts = [sum("lora" in name for name in names) for names in passed]
        assert sum(counts) == max(counts) == 12, "two matrices of six layers, in one run of several"
        graph = model._open().body.graph
    kept = {name for name in graph.inputs if "lora" in name}
    assert {f"{name}_RetainedState" for name in kept} < graph.outputs.keys()
    assert "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight" in kept


def test_values_beyond_fp16_are_refused(root: Path) -> None:
    write_adapter(root / "huge", base(), LAYERS["a"], 3, lora_alpha=1e9)
    with loaded(root) as model:
        model.compile(**{**COMPILE, "precision": None}, **TARGETS["card"])
        model.load_adapter(root / "huge", "huge")
        model.set_adapter("huge")
        with pytest.raises(NumericError, match="beyond the range of float16: compile with precision='fp32'"):
            model.generate(PROMPTS)


def test_the_package_depends_on_the_adapters_and_the_program_on_their_shapes(root: Path) -> None:
    def keys(*names: str) -> tuple[Any, Any]:
        model = QEffAutoPeftModelForCausalLM(base())
        for name in names:
            model.load_adapter(root / name, f"{names.index(name)}")
        ingredients = model.package_ingredients(target="cpu", **COMPILE)
        return ingredients["program"], ingredients

    write_adapter(root / "retrained", base(), LAYERS["a"], RANKS["a"], seed=9)
    program, package = keys("a")
    assert keys("a") == (program, package)
    retrained = keys("retrained")
    assert retrained[0] == program
    assert retrained[1] != package
    assert keys("a", "small")[0] == program, "it has room in the other"
    assert keys("large")[0] != program


def test_upstream_loads_either_class_by_the_adapter(root: Path) -> None:
    model = QEffAutoPeftModelForCausalLM.from_pretrained(root / "a", finite_adapters=True, adapter_name="x")
    assert isinstance(model, QEffAutoLoraModelForCausalLM)
    assert model.adapters == ("x",)
    default = QEffAutoPeftModelForCausalLM.from_pretrained(root / "a")
    assert (default.adapters, default.active_adapter) == (("default",), "default")
    with pytest.raises(OptionError, match="finite_adapters=True needs adapter_name"):
        QEffAutoPeftModelForCausalLM.from_pretrained(root / "a", finite_adapters=True)
    with pytest.raises(CheckpointNotFound, match=r"has no adapter_config.json, so it is not a PEFT adapter"):
        QEffAutoPeftModelForCausalLM.from_pretrained(root / "base")
    with pytest.raises(CheckpointNotFound, match="does not name its base model"):
        QEffAutoPeftModelForCausalLM.from_pretrained(write_adapter(root / "nameless", base(), "q_proj", 1))


def test_other_classes_name_the_one_for_adapters(root: Path) -> None:
    with pytest.raises(CheckpointNotFound, match=r"PEFT adapter\. Load that of .* QEffAutoPeftModelForCausalLM"):
        QEFFAutoModelForCausalLM.from_pretrained(root / "a")
    with_config = copytree(root / "a", root / "with_config")
    base().config.save_pretrained(with_config)
    with pytest.raises(CheckpointNotFound, match=r"no weights that are read\..* is a PEFT adapter.*merge_and"):
        QEFFAutoModelForCausalLM.from_pretrained(with_config)
    with pytest.raises(OptionError, match="save_pretrained"):
        QEffAutoPeftModelForCausalLM(type("PeftModel", (), {"peft_config": {}})())


def test_without_adapters_the_package_is_the_plain_model(root: Path) -> None:
    plain, model = QEFFAutoModelForCausalLM(base()), QEffAutoPeftModelForCausalLM(base())
    options = {"target": "cpu", **COMPILE}
    assert model.package_ingredients(**options) == plain.package_ingredients(**options)
    with model:
        model.compile(**options)
        assert answers(model, PROMPTS) == expected(root, "base")
        model.load_adapter(root / "a", "a")
        with pytest.raises(LifecycleError, match=r"compiled for none there. Call compile\(\) again"):
            model.generate(PROMPTS)
        model.set_adapter("base")
        assert answers(model, PROMPTS) == expected(root, "base")
