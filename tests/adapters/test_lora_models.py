"""Several adapters in one package: each prompt of a batch gets the tokens that its adapter gives it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from architectures.tiny import tiny_config
from lora_adapters import answers, greedy, with_adapter, write_adapter
from transformers import AutoModelForCausalLM

from QEfficient import QEffAutoLoraModelForCausalLM, QEFFAutoModelForCausalLM, cloud_ai_100_exec_kv
from QEfficient.errors import LifecycleError, OptionError

TARGETS = {
    "llama": ("[qv]_proj", "down_proj|gate_proj", "layers.0|lm_head"),
    "gpt2": ("c_attn", "mlp", "h.1|lm_head"),
    "qwen3_moe": ("[qv]_proj", "[ko]_proj", "layers.0.*q_proj|lm_head"),
    "deepseek_v3": ("q_a_proj|o_proj", "kv_[ab]_proj", "q_b_proj|shared_experts|layers.0.mlp"),
}
"""Layers of the three adapters, of which some share layers."""
RANKS = (3, 1, 2)
NAMES = ["first", "base", "second", "third", "second"]
"""Adapters of the prompts; more of them than slots."""
PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13], *[[5, 6, 7, 8, 9, 10, 11, 12, 13]] * 3, [30, 31]]
COMPILE = {"ctx_len": 32, "prefill_seq_len": 4, "full_batch_size": 3, "precision": "fp32"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@cache
def base(architecture: str) -> Any:
    return tiny_models.causal_lm(architecture)


def folders(root: Path, architecture: str) -> dict[str, Path]:
    """The three adapters of an architecture, written once."""
    folder = root / architecture
    names = ("first", "second", "third")
    if not folder.exists():
        for number, (name, pattern, rank) in enumerate(zip(names, TARGETS[architecture], RANKS, strict=True)):
            changes = {"use_rslora": True, "lora_alpha": 2} if name == "second" else {}
            write_adapter(folder / name, base(architecture), pattern, rank, number, **changes)
    return {name: folder / name for name in names}


def loaded(root: Path, architecture: str) -> QEffAutoLoraModelForCausalLM:
    model = QEffAutoLoraModelForCausalLM(base(architecture))
    numbers = [model.load_adapter(folder, name) for name, folder in folders(root, architecture).items()]
    assert numbers == [1, 2, 3]
    return model


def expected(root: Path, architecture: str) -> list[list[int]]:
    places = folders(root, architecture)
    models = {name: with_adapter(base(architecture), places.get(name)) for name in (*places, "base")}
    return [greedy(models[name], ids) for name, ids in zip(NAMES, PROMPTS, strict=True)]


@pytest.mark.parametrize(
    ("architecture", "target"),
    [
        *[(architecture, "cpu") for architecture in ("llama", "gpt2", "qwen3_moe")],
        *[(architecture, "cloud-ai-100-sim") for architecture in ("llama", "gpt2")],
        pytest.param("qwen3_moe", "cloud-ai-100-sim", marks=pytest.mark.sweep),
    ],
)
def test_each_prompt_gets_the_tokens_of_its_adapter(root: Path, architecture: str, target: str) -> None:
    model = loaded(root, architecture)
    wanted = expected(root, architecture)
    assert len({*map(tuple, wanted[:4])}) == 4, "the adapters change the answer"
    model.compile(target=target, **COMPILE)
    assert model._open().body.lowering == ("paged" if target == "cpu" else "retained")
    assert answers(model, PROMPTS, adapter=NAMES) == wanted
    ids = model._open().body.graph.inputs["lora_ids"]
    assert (ids.dtype, ids.shape) == (("i64", (1, -1)) if target == "cpu" else ("int64", (-1, 1)))
    model.close()


@pytest.mark.parametrize(
    "options", [{"lowering": "retained"}, pytest.param({}, marks=pytest.mark.sweep)], ids=["retained", "paged"]
)
def test_tokens_are_not_always_on_the_same_axis(root: Path, options: dict[str, str]) -> None:
    """DeepSeek's latents have an axis of heads before that of tokens, and all slots are projected again."""
    with loaded(root, "deepseek_v3") as model:
        model.compile(target="cpu", **COMPILE, **options)
        assert answers(model, PROMPTS, adapter=NAMES) == expected(root, "deepseek_v3")


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3_moe"])
def test_the_reference_is_peft(root: Path, architecture: str) -> None:
    peft = pytest.importorskip("peft")
    for folder in folders(root, architecture).values():
        model = peft.PeftModel.from_pretrained(copy.deepcopy(base(architecture)), folder)
        assert greedy(model, PROMPTS[0]) == greedy(with_adapter(base(architecture), folder), PROMPTS[0])


@pytest.fixture(scope="module")
def compiled(root: Path) -> Iterator[QEffAutoLoraModelForCausalLM]:
    with loaded(root, "llama") as model:
        model.compile(target="cpu", **COMPILE)
        yield model


def test_upstream_names_adapters_by_prompt(compiled: QEffAutoLoraModelForCausalLM) -> None:
    by_prompt = answers(compiled, PROMPTS, adapter=NAMES)
    assert answers(compiled, PROMPTS, prompt_to_adapter_mapping=NAMES, runtime="AI_100") == by_prompt
    with pytest.raises(OptionError, match="either adapter or prompt_to_adapter_mapping"):
        compiled.generate(PROMPTS, adapter="first", prompt_to_adapter_mapping=NAMES)
    with pytest.raises(OptionError, match="target='cpu'"):
        compiled.generate(PROMPTS, runtime="CPU")


def test_upstream_numbers_adapters(compiled: QEffAutoLoraModelForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts need a tokenizer, so the prompts are read as token ids."""
    import QEfficient.generation.prompts as prompts

    monkeypatch.setattr(prompts, "read_prompts", lambda prompt, file: PROMPTS)
    run = cloud_ai_100_exec_kv(
        None, compiled.qpc_path, "", generation_len=10, stream=False, prompt_to_lora_id_mapping=[1, 0, 2, 3, 2]
    )
    assert [ids.tolist() for ids in run.generated_ids] == answers(compiled, PROMPTS, adapter=NAMES)
    with pytest.raises(OptionError, match="no adapter 4: the package has 3"):
        cloud_ai_100_exec_kv(None, compiled.qpc_path, "", prompt_to_lora_id_mapping=[4, 0, 0, 0, 0])


def test_an_unknown_adapter_names_the_nearest(compiled: QEffAutoLoraModelForCausalLM) -> None:
    with pytest.raises(OptionError, match=r"no adapter 'frist'.*Did you mean 'first'"):
        compiled.generate(PROMPTS[:1], adapter="frist")
    with pytest.raises(OptionError, match="adapter has 2 values for 1 prompts"):
        compiled.generate(PROMPTS[:1], adapter=["first", "second"])


def test_the_active_adapter_is_that_of_prompts_which_name_none(compiled: QEffAutoLoraModelForCausalLM) -> None:
    wanted = answers(compiled, PROMPTS[:4], adapter=NAMES[:4])
    assert answers(compiled, PROMPTS[:1]) == [wanted[1]], "the base model"
    compiled.set_adapter("second")
    assert compiled.active_adapter == "second"
    assert answers(compiled, PROMPTS[:3], adapter=["third", None, "base"]) == [wanted[3], wanted[2], wanted[1]]
    compiled.set_adapter("base")
    assert answers(compiled, PROMPTS[:1]) == [wanted[1]]
    with pytest.raises(OptionError, match="Did you mean 'third'"):
        compiled.set_adapter("thrid")


def test_a_package_knows_its_adapters(compiled: QEffAutoLoraModelForCausalLM) -> None:
    with QEffAutoLoraModelForCausalLM.from_package(compiled.qpc_path) as opened:
        assert opened.adapters == ("first", "second", "third")
        assert answers(opened, PROMPTS, adapter=NAMES) == answers(compiled, PROMPTS, adapter=NAMES)
        with pytest.raises(LifecycleError, match="opened from a package"):
            opened.merge("first")


def test_requests_are_streamed_with_their_adapter(compiled: QEffAutoLoraModelForCausalLM) -> None:
    requests, _ = compiled._open()._requests(PROMPTS[:2], None, 4, {"adapter": ["third", "base"]})
    assert [request.adapter for request in requests] == ["third", "base"]


def test_no_adapter_comes_or_goes_under_running_requests(compiled: QEffAutoLoraModelForCausalLM, root: Path) -> None:
    requests, _ = compiled._open()._requests(PROMPTS[:1], None, 4, {"adapter": "first"})
    tokens = compiled._open().engine.run(requests)
    next(tokens)
    with pytest.raises(LifecycleError, match="running"):
        compiled.unload_adapter("first")
    with pytest.raises(LifecycleError, match="running"):
        compiled.load_adapter(folders(root, "llama")["first"], "fourth")
    tokens.close()
    assert compiled.adapters == ("first", "second", "third")
    assert answers(compiled, PROMPTS[:1], adapter="first") == expected(root, "llama")[:1]


def test_verify_compares_with_the_merged_model(compiled: QEffAutoLoraModelForCausalLM) -> None:
    report = compiled.verify([PROMPTS[0]], adapter="third", generation_len=4)
    assert report.agrees
    assert compiled._open().artifact.manifest.body["parity"] == report.to_dict()
    assert answers(compiled, PROMPTS[:1]) != answers(compiled, PROMPTS[:1], adapter="third")


def test_without_adapters_the_package_is_the_plain_model(root: Path) -> None:
    plain = QEFFAutoModelForCausalLM(base("llama")).package_ingredients(target="cpu", **COMPILE)
    model = QEffAutoLoraModelForCausalLM(base("llama"))
    assert model.package_ingredients(target="cpu", **COMPILE) == plain
    model.load_adapter(folders(root, "llama")["first"], "first")
    assert model.package_ingredients(target="cpu", **COMPILE) != plain
    model.unload_adapter("first")
    assert model.package_ingredients(target="cpu", **COMPILE) == plain


def test_adapters_are_part_of_every_key(root: Path) -> None:
    def keys(*pairs: tuple[str, str]) -> tuple[Any, Any]:
        model = QEffAutoLoraModelForCausalLM(base("llama"))
        for name, folder in pairs:
            model.load_adapter(places[folder], name)
        ingredients = model.package_ingredients(target="cpu", **COMPILE)
        return ingredients["program"]["onnx"], ingredients

    places = folders(root, "llama")
    retrained = write_adapter(root / "retrained", base("llama"), TARGETS["llama"][0], RANKS[0], seed=9)
    scaled = write_adapter(root / "scaled", base("llama"), TARGETS["llama"][0], RANKS[0], lora_alpha=7)
    places |= {"retrained": retrained, "scaled": scaled}
    graph, package = keys(("a", "first"), ("b", "second"))
    assert keys(("a", "first"), ("b", "second")) == (graph, package)
    for other in ("retrained", "scaled"):
        assert keys(("a", other), ("b", "second"))[0] != graph, other
    assert keys(("b", "second"), ("a", "first"))[0] != graph, "their numbers are others"
    assert keys(("a", "first"))[0] != graph
    renamed = keys(("c", "first"), ("b", "second"))
    assert renamed[0] == graph
    assert renamed[1] != package, "the package has names"


def test_a_change_of_the_adapters_needs_another_package(root: Path) -> None:
    model = loaded(root, "llama")
    model.compile(target="cpu", **COMPILE)
    model.unload_adapter("first")
    assert model.adapters == ("second", "third")
    with pytest.raises(LifecycleError, match="call compile"):
        model.generate(PROMPTS[:1])
    model.compile(target="cpu", **COMPILE)
    wanted = expected(root, "llama")
    assert answers(model, PROMPTS[:2], adapter=["second", "third"]) == wanted[2:4]
    with pytest.raises(OptionError, match="no adapter 'first'"):
        model.generate(PROMPTS[:1], adapter="first")
    model.close()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_merged_model_is_one_without_adapters(root: Path, architecture: str, tmp_path: Path) -> None:
    """Of a checkpoint whose weights are unread, and of a model in memory."""
    place = folders(root, architecture)["second"]
    wanted = greedy(with_adapter(base(architecture), place), PROMPTS[0])
    unread = QEffAutoLoraModelForCausalLM.from_pretrained(tiny_models.save(base(architecture), tmp_path / "base"))
    in_memory = QEffAutoLoraModelForCausalLM(base(architecture))
    keys = []
    for model in (unread, in_memory):
        model.load_adapter(place, "x")
        merged = model.merge("x")
        assert type(merged) is QEFFAutoModelForCausalLM
        merged.compile(target="cpu", **COMPILE)
        assert answers(merged, PROMPTS[:1]) == [wanted]
        merged.close()
        keys.append(merged.package_ingredients(target="cpu", **COMPILE)["program"]["onnx"]["weights"])
        assert greedy(merged.model, PROMPTS[0]) == wanted
        assert greedy(model.model, PROMPTS[0]) == greedy(base(architecture), PROMPTS[0]), "the base is as it was"
    assert keys[0] == keys[1]


@pytest.mark.sweep
def test_prophetnet_gets_the_tokens_of_single_steps(tmp_path: Path) -> None:
    """In transformers, what it says after a prompt that is read at once is not what it says after one read by tokens:
    its masks of a whole prompt let later tokens in. Ours is the latter."""
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(tiny_config("causal_lm", "prophetnet"), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    with QEffAutoLoraModelForCausalLM(plain) as model:
        for number, (name, pattern) in enumerate({"a": "query_proj|value_proj", "b": "feed|lm_head"}.items()):
            model.load_adapter(write_adapter(tmp_path / name, plain, pattern, 2, number), name)
        model.compile(target="cpu", **COMPILE)
        names = ["a", "base", "b"]
        got = answers(model, [PROMPTS[0]] * 3, adapter=names)
    theirs = [with_adapter(plain, tmp_path / name if name != "base" else None) for name in names]
    assert got == [_by_single_steps(each, PROMPTS[0], len(got[0])) for each in theirs]


def _by_single_steps(model: Any, ids: list[int], count: int) -> list[int]:
    cache, tokens = None, list(ids)
    while len(tokens) < len(ids) + count:
        position = 0 if cache is None else cache.get_seq_length()
        output = model(torch.tensor([tokens[position : position + 1]]), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        if position == len(tokens) - 1:
            tokens.append(int(output.logits[0, -1].argmax()))
    return tokens[len(ids) :]


def test_merging_equals_peft(root: Path) -> None:
    peft = pytest.importorskip("peft")
    model = loaded(root, "gpt2")
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base("gpt2")), folders(root, "gpt2")["second"])
    assert greedy(model.merge("second").model, PROMPTS[0]) == greedy(theirs.merge_and_unload(), PROMPTS[0])


def test_a_model_without_adapters_refuses_to_select_one() -> None:
    with QEFFAutoModelForCausalLM(base("llama")) as model:
        model.compile(target="cpu", **COMPILE)
        with pytest.raises(OptionError, match="QEffAutoLoraModelForCausalLM"):
            model.generate(PROMPTS[:1], adapter="first")
        assert answers(model, PROMPTS[:1], adapter="base") == answers(model, PROMPTS[:1])
