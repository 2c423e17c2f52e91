"""One architecture of each kind of state, on both targets: what `make coverage` does for all of them."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import get_args

import image_text_models
import pytest
from _pytest.mark import ParameterSet
from architectures.cases import check
from architectures.sizes import VARIANTS

from QEfficient.transformers.lowering.cache_spec import StateKind

BY_KIND = {
    "full": "qwen3",
    "sliding": "gemma3_text",
    "chunked": "llama4_text",
    "indexed": "deepseek_v32",
    "compressed": "deepseek_v4",
    "linear": "qwen3_next",
    "conv": "lfm2",
    "hybrid": "falcon_h1",
    "hybrid_sliding": "inkling_text",
    "none": "mllama",
    "tokens": "openai-gpt",
}
SCANS = ("mamba", "mamba2", "kimi_linear", "rwkv", "xlstm", "recurrent_gemma", "minimax")
"""Each has a recurrence of its own; qwen3_next stands for the gated delta rule."""
OTHERS = {
    "causal_lm": ("gemma3n_text",),
    "seq2seq": ("t5", "bart"),
    "sequence_classification": ("modernbert", "llama"),
    "text_encoder": ("roberta",),
}
OTHER_HEADS = (
    ("text_encoder_other_head", "clip_text_model"),
    ("text_encoder_other_head", "siglip"),
    ("causal_lm_other_head", "mllama"),
)
QUIRKS_ALONE = {
    "causal_lm": ("cpmant", "dbrx", "gpt_neo", "jetmoe", "longcat_flash", "prophetnet", "roformer", "xlm", "xlnet"),
    "ctc": ("granite_speech5_ctc", "wav2vec2-bert"),
    "speech_seq2seq": (
        *("whisper", "moonshine", "moonshine_streaming"),
        *("granite_speech", "granite_speech_plus", "qwen3_asr"),
        *("kyutai_speech_to_text", "pop2piano"),
    ),
    "seq2seq": ("fsmt", "led", "longt5", "nllb-moe", "switch_transformers"),
    "text_encoder": ("funnel", "longformer"),
}
"""Architectures with a quirk that no other test is about."""
SLOW = {
    *("kimi_linear", "minimax", "recurrent_gemma", "rwkv", "xlstm"),
    *("fsmt", "gemma3n_text", "longcat_flash", "prophetnet", "xlnet"),
    *("led", "longt5", "nllb-moe", "switch_transformers", "funnel"),
    *("deepseek_v4", "inkling_text", "falcon_h1", "t5"),
    *("cpmant", "jetmoe", "roformer"),
    *("moonshine", "moonshine_streaming", "granite_speech5_ctc"),
    *("granite_speech", "granite_speech_plus", "qwen3_asr"),
    *("kyutai_speech_to_text", "pop2piano"),
}
"""More than ten seconds each: in the sweep."""
SIMULATOR = "cloud-ai-100-sim"
SLOW_ON = {
    *((name, "cpu") for name in ("qwen3_next", "deepseek_v32", "mamba", "mamba2", "llama4_text", "mllama")),
    *((name, SIMULATOR) for name in ("bart", "gemma3_text", "qwen3")),
}
"""Slow on one target, which the sweep takes; the other is in every run."""
CASES = [
    *(("causal_lm", model_type) for model_type in (*BY_KIND.values(), *SCANS)),
    *((family, model_type) for family, model_types in OTHERS.items() for model_type in model_types),
    *OTHER_HEADS,
]


def _param(family: str, model_type: str, *target: str) -> ParameterSet:
    is_slow = model_type in SLOW or (model_type, *target) in SLOW_ON
    marks = [pytest.mark.xdist_group(f"{family}-{model_type}"), *([pytest.mark.sweep] if is_slow else [])]
    return pytest.param(family, model_type, *target, marks=marks, id="-".join((family, model_type, *target)))


@pytest.mark.parametrize(
    ("family", "model_type", "target"), [_param(*case, target) for case in CASES for target in ("cpu", SIMULATOR)]
)
def test_answers_are_those_of_hugging_face(family: str, model_type: str, target: str) -> None:
    row = check(family, model_type, target)
    assert row["agrees"], row


@pytest.mark.parametrize(
    ("family", "model_type"), [_param(family, name) for family, names in QUIRKS_ALONE.items() for name in names]
)
def test_quirks_change_no_answer(family: str, model_type: str) -> None:
    row = check(family, model_type, "cpu")
    assert row["agrees"], row


def test_every_quirk_has_a_test() -> None:
    """Here, or where what it replaces is compared with the original."""
    from QEfficient.transformers.quirks import REASONS

    places = ("quirks/test_recurrent.py", "models/test_length_dependent_rope.py")
    compared = "".join(
        (Path(__file__).parents[1] / "transformers" / name).read_text(encoding="utf-8") for name in places
    )
    parts = {"granite_speech5_encoder": "granite_speech5_ctc", "ernie4_5_vl_moe_text": "ernie4_5_vl_moe"}
    parts |= {"step3p5": "step3p7", "step3p5_vision": "step3p7", "glm5_next_text": "glm5_next"}
    parts |= {"kosmos_2_text_model": "kosmos-2", "kosmos_2_5_text_model": "kosmos-2.5"}
    parts |= {"qwen3_omni_moe_audio_encoder": "qwen3_omni_moe_thinker", "mimi": "kyutai_speech_to_text"}
    parts |= {f"{name}_encoder": name for name in QUIRKS_ALONE["speech_seq2seq"]}
    tested = {*BY_KIND.values(), *SCANS, *chain(*OTHERS.values(), *QUIRKS_ALONE.values())}
    tested |= {variant.partition("+")[0] for variant in VARIANTS}
    tested |= image_text_models.RECIPES.keys()  # in test_image_text_to_text.py and test_audio_towers.py
    assert [name for name in REASONS if parts.get(name, name) not in tested and f'"{name}"' not in compared] == []


@pytest.mark.parametrize("kind", BY_KIND)
def test_the_model_is_of_its_kind(kind: str) -> None:
    from architectures.tiny import tiny_model

    from QEfficient.transformers.lowering.infer_cache_spec import state_specs

    assert kind in {spec.kind for spec in state_specs(tiny_model("causal_lm", BY_KIND[kind]))}


def test_every_kind_has_its_model() -> None:
    """Cross-attention's are the sequence-to-sequence models, to images those of ``test_cross_media.py``."""
    assert set(get_args(StateKind)) - {"cross", "images"} == BY_KIND.keys()
