"""Sizes of a config are believed only as far as models, and the checkpoint's weights, have them; in milliseconds."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from architectures.tiny import tiny_config
from click.testing import CliRunner
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from QEfficient import QEFFAutoModelForCausalLM, QEFFCommonLoader
from QEfficient.cloud.app import app
from QEfficient.errors import CorruptCheckpoint
from QEfficient.transformers.checkpoint.build_limits import MAX_BYTES, BuildLimits
from QEfficient.transformers.checkpoint.files import read_config
from QEfficient.transformers.checkpoint.load import check_safe, load_tokenizer
from QEfficient.transformers.checkpoint.meta_model import outline
from QEfficient.transformers.checkpoint.sizes import check_fits, check_limits

pytestmark = pytest.mark.xdist_group("fault packages")
AUTO_CLASSES: dict[str, Any] = {
    "causal_lm": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
}
LIMIT_S = 1.0
"""Of a refusal, on a machine that does other things too; a model of so many layers takes minutes."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_models.save(tiny_models.causal_lm("llama"), tmp_path_factory.mktemp("checkpoint"))
    tiny_models.tiny_tokenizer().save_pretrained(folder)
    QEFFAutoModelForCausalLM.from_pretrained(folder)  # imports
    return folder


@pytest.fixture
def with_sizes(checkpoint: Path, tmp_path: Path) -> Callable[..., Path]:
    """The checkpoint with other values in its config."""

    def change(values: dict[str, Any], has_weights: bool = True) -> Path:
        config = json.loads((checkpoint / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | values))
        for path in checkpoint.iterdir():
            if path.name != "config.json" and (has_weights or path.suffix != ".safetensors"):
                (tmp_path / path.name).write_bytes(path.read_bytes())
        return tmp_path

    return change


HUGE: list[dict[str, Any]] = [
    {"num_hidden_layers": 10**5},
    {"num_hidden_layers": 10**9},
    {"num_hidden_layers": 1e9},
    {"num_hidden_layers": 2**70},
    {"hidden_size": 10**9},
    {"intermediate_size": 10**12},
    {"intermediate_size": [64, 10**12]},
    {"num_attention_heads": 10**9},
    {"num_key_value_heads": 10**9},
    {"head_dim": 10**9},
    {"num_local_experts": 10**9},
    {"n_routed_experts": 10**9},
    {"num_labels": 10**9},
    {"H_cycles": 10**9},
    {"max_depth": 10**6},
    {"text_config": {"num_hidden_layers": 10**9}},
    {"vision_config": {"depth": 10**6, "hidden_size": 64}},
    {"vision_config": {"depths": [2, 2, 10**6]}},
    {"text_config": {"sub_configs": {"encoder": {"n_layer": 10**6}}}},
]


@pytest.mark.parametrize("values", HUGE, ids=json.dumps)
@pytest.mark.parametrize("has_weights", [True, False], ids=["weights", "config alone"])
def test_inspect(with_sizes: Callable[..., Path], values: dict[str, Any], has_weights: bool) -> None:
    folder = with_sizes(values, has_weights)
    is_refused(lambda: run("inspect", folder))


@pytest.mark.parametrize("values", HUGE, ids=json.dumps)
def test_load(with_sizes: Callable[..., Path], values: dict[str, Any]) -> None:
    folder = with_sizes(values)
    is_refused(lambda: QEFFAutoModelForCausalLM.from_pretrained(folder))
    is_refused(lambda: QEFFCommonLoader.from_pretrained(folder))
    is_refused(lambda: load_tokenizer(folder))
    is_refused(lambda: run("infer", folder, "-p", "x", "--target", "cpu"))


def run(command: str, folder: Path, *options: str) -> None:
    result = CliRunner().invoke(app, [command, str(folder), *options])
    assert result.exception is not None
    raise result.exception


def is_refused(call: Callable[[], object]) -> None:
    began = time.perf_counter()
    with pytest.raises(CorruptCheckpoint, match=r"config\.json: \w+ is .* at most"):
        call()
    assert time.perf_counter() - began < LIMIT_S


@pytest.mark.parametrize("values", [{"num_hidden_layers": 129}, {"num_hidden_layers": 1000}], ids=json.dumps)
def test_sizes_that_the_weights_do_not_have(with_sizes: Callable[..., Path], values: dict[str, Any]) -> None:
    """There are models with such sizes, and their checkpoints are larger."""
    folder = with_sizes(values)
    check_limits(values, folder / "config.json")
    is_refused(lambda: check_safe(folder, trust_remote_code=False))
    is_refused(lambda: run("inspect", folder))


def test_sizes_are_those_of_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    check_fits({"num_hidden_layers": 900, "hidden_size": 2**17}, path, num_tensors=900, num_bytes=2**14)
    check_fits({"num_hidden_layers": 128, "hidden_size": 2**16}, path, num_tensors=5, num_bytes=100)
    for sizes in ({"num_hidden_layers": 901}, {"hidden_size": 2**17 + 1}):
        with pytest.raises(CorruptCheckpoint, match=r"900 tensors of 16,384 bytes"):
            check_fits(sizes, path, num_tensors=900, num_bytes=2**14)


@pytest.mark.parametrize(
    "values",
    [
        {"max_position_embeddings": 10**15},
        {"rope_theta": 10**12},
        {"bos_token_id": 2**30},
        {"sliding_window": 10**12},
        {"id2label": {"0": "a"}, "label2id": {"num_hidden_layers": 10**9}},
    ],
    ids=json.dumps,
)
def test_what_is_no_size_of_a_weight(with_sizes: Callable[..., Path], values: dict[str, Any]) -> None:
    folder = with_sizes(values)
    assert QEFFAutoModelForCausalLM.from_pretrained(folder)
    result = CliRunner().invoke(app, ["inspect", str(folder)])
    assert result.exception is None


@pytest.mark.parametrize("values", [{"vocab_size": 2**40}, {"vocab_size": 2**27}, {"intermediate_size": 2**20 - 1}])
def test_weights_that_would_be_made_up(with_sizes: Callable[..., Path], values: dict[str, int]) -> None:
    """transformers allocates weights of the config's size before it says that the checkpoint's are smaller."""
    folder, before = with_sizes(values), peak_bytes()
    with pytest.raises(CorruptCheckpoint, match=r"makes a tensor \((134217728|1099511627776|1048575|64), \d+\)"):
        QEFFAutoModelForCausalLM.from_pretrained(folder)
    assert peak_bytes() - before < 2 * MAX_BYTES


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


GROWING = [
    ("causal_lm", "codegen", {"n_positions": 10**9}),
    ("seq2seq", "m2m_100", {"max_position_embeddings": 10**9}),
]


@pytest.mark.parametrize(("family", "model_type", "sizes"), GROWING)
def test_models_that_grow_by_other_names(family: str, model_type: str, sizes: dict[str, int], tmp_path: Path) -> None:
    config = tiny_config(family, model_type)
    for name, value in sizes.items():
        setattr(config, name, value)
    check_limits(config.to_dict(), tmp_path)
    auto_class, before = AUTO_CLASSES[family], peak_bytes()
    with pytest.raises(CorruptCheckpoint, match=r"makes (a tensor|more tensors)"):
        outline(auto_class, config, tmp_path)
    assert peak_bytes() - before < 2 * MAX_BYTES


def test_more_tensors_than_weights() -> None:
    def make(number: int) -> None:
        for _ in range(number):
            torch.empty(1, device="meta")

    with BuildLimits(Path("x"), num_tensors=2000):
        make(32_000)
        with pytest.raises(CorruptCheckpoint, match="more tensors"):
            make(1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(2**28),
        lambda: torch.zeros(2**15, 2**15),
        lambda: [torch.ones(2**27, dtype=torch.uint8) for _ in range(9)],
        lambda: torch.empty_like(torch.empty(2**40, device="meta"), device="cpu"),
        lambda: torch.arange(2**21)[:, None] * torch.ones(1024),
        lambda: torch.outer(torch.arange(2.0**21), torch.ones(1024)),
        lambda: torch.einsum("i,j->ij", torch.arange(2.0**21), torch.ones(1024)),
        lambda: torch.ones(2**21).repeat(1024),
    ],
)
def test_tensors_with_much_content(make: Callable[[], object]) -> None:
    with BuildLimits(Path("x")), pytest.raises(CorruptCheckpoint, match="makes a tensor"):
        make()


def test_no_config_of_transformers_is_refused() -> None:
    """Their defaults are the sizes of a published checkpoint."""
    num_checked = 0
    for name, config_class in CONFIG_MAPPING.items():
        try:
            config = config_class().to_dict()
        except (ValueError, StrictDataclassClassValidationError):  # has no defaults
            continue
        check_limits(config, Path(name))
        num_checked += 1
    assert num_checked > 700


def test_a_config_is_checked_in_a_millisecond(checkpoint: Path) -> None:
    config = read_config(checkpoint)
    began = time.perf_counter()
    for _ in range(100):
        check_limits(config, checkpoint)
    assert time.perf_counter() - began < 0.2
