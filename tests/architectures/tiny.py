"""Tiny random checkpoints of every text architecture that transformers ships: small, but odd where the real one is.

A config starts from its class's defaults; ``sizes.py`` says how its numbers shrink. Layers of several kinds stay of
several kinds: a few layers are picked out of the default's so that every kind occurs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from architectures.sizes import KEPT, OVERRIDES, SPREAD, VARIANTS, VOCAB, rule

_NOT_TEXT = {
    *("audioflamingo3", "glmasr", "granite_speech", "granite_speech_plus", "moss_transcribe_diarize", "musicflamingo"),
    *("nemo_speechlm", "qwen2_audio", "qwen3_asr", "vibevoice_asr", "voxtral", "voxtral_realtime"),
}
"""Sequence-to-sequence models that answer to sound."""

_DRAFTS = "drafts for another model: its layers read the keys and values of that model's cache"
_HASHES = "hashes keys in directions that are drawn anew at every call, so that its answers change"
_CODES = "speaks codes of an audio codec, not text; AutoModelForCausalLM cannot even build it from its whole config"

UNABLE: dict[tuple[str, str], str] = {
    ("causal_lm", "blt"): "cuts bytes into patches where a second model is unsure: their number depends on data",
    **{(family, "reformer"): _HASHES for family in ("causal_lm", "sequence_classification", "text_encoder")},
    ("causal_lm", "gemma3n"): "its vision tower is a timm model: needs timm and pillow (gemma3n_text needs neither)",
    ("causal_lm", "gemma4_assistant"): _DRAFTS,
    ("causal_lm", "gemma4_unified_assistant"): _DRAFTS,
    ("sequence_classification", "layoutlmv2"): "needs detectron2, even for text alone",
    ("text_encoder", "perceiver"): "PerceiverModel takes `inputs` already embedded, not tokens",
    ("speech_seq2seq", "dia"): "reads text and speaks codes of an audio codec",
    ("speech_seq2seq", "vibevoice"): "reads text and speaks",
    ("causal_lm", "musicgen"): _CODES,
    ("causal_lm", "musicgen_melody"): _CODES,
}
"""Models that no text user can run, by family and model type, with the fact that stops them."""


def families() -> dict[str, list[str]]:
    """The model types of every family, as transformers' auto classes list them."""
    from transformers.models.auto import modeling_auto as auto

    encoders = auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.keys() | auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys()
    return {
        "causal_lm": sorted(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        "ctc": sorted(auto.MODEL_FOR_CTC_MAPPING_NAMES),
        "seq2seq": sorted(auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.keys() - _NOT_TEXT),
        "speech_seq2seq": sorted(auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES),
        "sequence_classification": sorted(auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
        "text_encoder": sorted(encoders),
    }


OTHER_HEAD = "_other_head"
"""Ends the families of checkpoints that were saved by another class than the one that loads them."""


_NAMES = "transformers looks for the text model's weights under other names"
UNREADABLE: dict[tuple[str, str], str] = {
    (f"causal_lm{OTHER_HEAD}", "emu3"): _NAMES,
    (f"text_encoder{OTHER_HEAD}", "emu3"): _NAMES,
    (f"text_encoder{OTHER_HEAD}", "llama4"): _NAMES,
    (f"text_encoder{OTHER_HEAD}", "t5gemma"): "T5GemmaEncoderModel refuses the config of an encoder with a decoder",
    (f"text_encoder{OTHER_HEAD}", "videoprism"): "returns one hidden state more than there are tokens",
}
"""Checkpoints of another head that transformers cannot load, or whose text is no sequence of states, and why."""
EAGER: dict[str, str] = {"aimv2": "its SDPA path applies the causal mask to padded inputs only"}
"""Text towers whose reference runs with eager attention, and why."""


_WHOLE = {
    "clip_text_model": ("AutoModel", "text_encoder", "clip"),
    "tipsv2_text_model": ("AutoModel", "text_encoder", "tipsv2"),
}
"""Text encoders that have a type of their own, and the model that they are a part of."""
TOWERS = (
    *("aimv2", "align", "altclip", "blip", "chinese_clip", "clap", "clipseg", "flava", "groupvit", "metaclip_2"),
    *("owlv2", "owlvit", "siglip", "siglip2", "videoprism", "xclip"),
)
"""Models with two towers whose text tower has no auto class."""


def other_heads() -> dict[str, dict[str, tuple[str, str, str]]]:
    """By family and model type, the auto class that saves a checkpoint for a text encoder or a causal LM to load, and
    the family and type whose config it has: a masked LM, an encoder with its decoder, a model that also sees."""
    from transformers.models.auto import modeling_auto as auto

    multimodal = auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    heads = {
        ("AutoModelForMaskedLM", "text_encoder"): auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        ("AutoModelForSeq2SeqLM", "seq2seq"): auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        ("AutoModelForImageTextToText", "text_encoder"): multimodal,
    }
    causal = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    encoders = {
        model_type: next((*head, model_type) for head, names in heads.items() if model_type in names)
        for model_type in families()["text_encoder"]
        if any(model_type in names for names in heads.values()) and ("text_encoder", model_type) not in UNABLE
    }
    decoders = {
        model_type: ("AutoModelForImageTextToText", "causal_lm", model_type)
        for model_type, name in sorted(causal.items())
        if multimodal.get(model_type, name) != name and ("causal_lm", model_type) not in UNABLE
    }
    towers = {model_type: ("AutoModel", "text_encoder", model_type) for model_type in TOWERS}
    return {f"text_encoder{OTHER_HEAD}": encoders | _WHOLE | towers, f"causal_lm{OTHER_HEAD}": decoders}


def saved_by_other_head(family: str, model_type: str, folder: Path) -> str:
    """Save a tiny random checkpoint of :func:`other_heads` in ``folder``.

    Returns:
        The name of the class that saved it.
    """
    import transformers

    name, config_family, saved_type = other_heads()[family][model_type]
    model = _random_model(getattr(transformers, name), config_family, saved_type, seed=0)
    model.save_pretrained(folder)
    return type(model).__name__


def loaded_from(family: str, model_type: str, folder: Path) -> Any:
    """What transformers makes of such a checkpoint, in float32."""
    import torch
    from transformers import AutoConfig

    auto_class = model_class(family.removesuffix(OTHER_HEAD), model_type)
    if model_type in TOWERS:
        attention = "eager" if model_type in EAGER else None
        whole = auto_class.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
        return whole.eval().text_model
    config = {"config": AutoConfig.from_pretrained(folder).text_config} if model_type in _WHOLE else {}
    return auto_class.from_pretrained(folder, dtype=torch.float32, **config).eval()


def tiny_config(family: str, model_type: str) -> Any:
    """A small config of ``model_type``, or of one of its :data:`VARIANTS`, as ``family`` uses it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    variant = VARIANTS[model_type] if "+" in model_type else {}
    model_type = model_type.partition("+")[0]
    config_class = CONFIG_MAPPING[model_type]
    changes = merged(OVERRIDES.get(model_type, {}), OVERRIDES.get(f"{family}/{model_type}", {}))
    values = merged(merged(shrunk(config_class()), changes), variant)
    if family == "sequence_classification":
        values["num_labels"] = 3
    if family == "causal_lm" and "is_decoder" in config_class.__dataclass_fields__:
        values["is_decoder"] = True
    config = config_class(**values)
    if getattr(config, "is_encoder_decoder", False) and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = config.pad_token_id or 0
    return config


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``values`` with ``changes``, dict into dict; a copy, since a config writes into its dicts."""
    result = deepcopy(values)
    for name, change in changes.items():
        value = result.get(name)
        are_dicts = isinstance(value, dict) and isinstance(change, dict)
        result[name] = merged(value, change) if are_dicts else deepcopy(change)
    return result


def shrunk(config: Any) -> dict[str, Any]:
    """Arguments that make a small config of ``config``'s class."""
    from transformers import PreTrainedConfig

    fields = {config.attribute_map.get(name, name): field for name, field in config.__dataclass_fields__.items()}
    values: dict[str, Any] = {}
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            values[name] = {"model_type": value.model_type} | shrunk(value)
        elif isinstance(value, int) and not isinstance(value, bool) and name not in KEPT:
            size = rule(name)
            # What the class works out itself follows from what it is given.
            if size is not None and value > size and name in fields and fields[name].default is not None:
                values[fields[name].name] = size
    return values | _head_groups(config) | _expert_groups(config) | _layers(config) | _token_ids(config)


def _head_groups(config: Any) -> dict[str, int]:
    """Two heads of keys and values for four of queries, unless heads share a latent."""
    num_heads = vars(config).get("num_key_value_heads")
    if not isinstance(num_heads, int) or num_heads == 1:
        return {}
    return {"num_key_value_heads": 4 if "kv_lora_rank" in vars(config) else 2}


def _expert_groups(config: Any) -> dict[str, int]:
    """Routing in groups needs two groups of at least two experts to choose from."""
    fields = vars(config)
    groups = next((name for name in ("n_group", "num_expert_group") if (fields.get(name) or 1) > 1), None)
    if groups is None:
        return {}
    experts = "n_routed_experts" if "n_routed_experts" in fields else "num_experts"
    return {experts: 8, groups: 4, "topk_group": 2}


def _layers(config: Any) -> dict[str, Any]:
    """Lists of one entry a layer, and lists of layers' indices, cut down to a few layers of every kind."""
    fields = vars(config)
    counts = [name for name in ("num_hidden_layers", "num_layers", "n_layer", "n_layers") if name in fields]
    count = fields[counts[0]] if counts else 0
    lists = {name: value for name, value in fields.items() if isinstance(value, list) and value and count > 2}
    indices = {k: v for k, v in lists.items() if re.search("layers$|(indices|idxs|ids)$", k) and _are_indices(v, count)}
    entries = {k: v for k, v in lists.items() if len(v) == count and k not in indices}
    if not indices and not entries:
        return {}
    kinds = [repr([v[i] for v in entries.values()] + [i in v for v in indices.values()]) for i in range(count)]
    chosen = _layers_of_every_kind(kinds)
    return (
        {counts[0]: len(chosen)}
        | {name: [value[i] for i in chosen] for name, value in entries.items()}
        | {name: [new for new, old in enumerate(chosen) if old in value] for name, value in indices.items()}
    )


def _are_indices(values: list[Any], count: int) -> bool:
    return all(isinstance(v, int) and 0 <= v < count for v in values) and values == sorted(set(values))


def _layers_of_every_kind(kinds: list[str]) -> list[int]:
    """Indices of three layers that take turns in kind, or of as many as there are kinds; two where all are alike."""
    turns = [i for i in range(len(kinds)) if i == 0 or kinds[i] != kinds[i - 1]]
    if len(turns) == 1:
        return [0, 1]
    first = {kinds.index(kind) for kind in kinds}
    return sorted(first | set(turns[: max(3, len(first))]))


def _token_ids(config: Any) -> dict[str, Any]:
    """Special tokens inside the small vocabulary: padding 0, start 1, end 2, the others at its end."""
    usual = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    ids: dict[str, Any] = {}
    for name, token in sorted(vars(config).items()):
        if not name.endswith(("_token_id", "_token_index")):
            continue
        if name in usual and (token is not None or name != "decoder_start_token_id"):
            ids[name] = token if isinstance(token, int) and 0 <= token < 3 else usual[name]
        elif token is not None and name not in usual and (not isinstance(token, int) or token >= VOCAB - 20):
            ids[name] = VOCAB - 1 - len(ids)
    return ids


def model_class(family: str, model_type: str) -> Any:
    """The auto class that makes a family's models; for an encoder the one with text encoders, where it is in there."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    if family == "text_encoder" and model_type in auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES:
        return transformers.AutoModelForTextEncoding
    names = {
        "causal_lm": "AutoModelForCausalLM",
        "ctc": "AutoModelForCTC",
        "seq2seq": "AutoModelForSeq2SeqLM",
        "sequence_classification": "AutoModelForSequenceClassification",
        "speech_seq2seq": "AutoModelForSpeechSeq2Seq",
        "text_encoder": "AutoModel",
    }
    return getattr(transformers, names[family])


_USUAL_SPREAD = {"matrices": 0.3, "embeddings": 0.03, "zeros": 0.03}


def tiny_model(family: str, model_type: str, seed: int = 0) -> Any:
    """A random float32 model in eval mode; equal seeds give equal weights."""
    return _random_model(model_class(family, model_type), family, model_type, seed)


def _random_model(auto_class: Any, family: str, model_type: str, seed: int) -> Any:
    import torch

    torch.manual_seed(seed)
    config = tiny_config(family, model_type)
    model = auto_class.from_config(config, dtype=torch.float32).eval()
    changes: dict[str, float] = {}
    for known in (model_type, family, f"{family}/{model_type}"):
        changes |= SPREAD.get(known, {})
    spread_weights(model, changes, seed)
    _free_generation(model)
    return model


def spread_weights(model: Any, changes: Mapping[str, float], seed: int) -> None:
    """Draw a model's weights, of the usual spread but for ``changes``."""
    import torch

    torch.manual_seed(seed)
    spread = _USUAL_SPREAD | dict(changes)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            _spread(name, weight, spread)
        for name, weight in sorted(model.named_buffers()):
            if name.endswith("bias") and weight.is_floating_point() and weight.abs().sum() == 0:
                weight.normal_(0.0, 0.05)
            elif name.endswith("tid2eid"):  # experts by token: different ones, as routing gives
                table = torch.rand(weight.shape[0], model.config.num_local_experts).argsort(1)
                weight.copy_(table[:, : weight.shape[1]])


def _spread(name: str, weight: Any, spread: dict[str, float]) -> None:
    """The usual 0.02 makes logits so flat that any two runs agree or tie; what has a mean, as norms and decays have,
    keeps it."""
    import torch

    is_centred = weight.numel() > 1 and weight.mean().abs() < 0.5 * weight.std()
    if weight.abs().sum() == 0 and weight.ndim == 1:
        weight.normal_(0.0, spread["zeros"])
    elif weight.ndim > 1 and (is_centred or weight.abs().sum() == 0):
        is_embedding = any(part in name for part in ("emb", "wte", "wpe", "shared.weight"))
        named = [std for part, std in spread.items() if part in name]
        weight.normal_(0.0, [*named, spread["embeddings" if is_embedding else "matrices"]][0])
    else:
        weight.add_(torch.randn_like(weight) * 0.1 * weight.abs().clamp(max=1.0))
        if spread.get("flips") and weight.ndim == 1 and "norm" in name.lower():
            weight.mul_(1 - 2 * torch.bernoulli(torch.full_like(weight, spread["flips"])))


_STEPS = "its step of one token does not clamp dt to time_step_min, its scan over a chunk does"
UNCACHED: dict[str, str] = {
    "blt": "with a cache its global transformer sees the newest patch only",
    "cpmant": "its prompt attends in both directions, so tokens that come later change what its cache holds",
    "nemotron_h": _STEPS,
    "xlnet": "its memories hold a text as it was before the newest tokens, which earlier ones see too",
    "zamba2": _STEPS,
}
"""Causal models whose cache in transformers loses what the model needs; their reference runs without one."""

_STARTS = "generate() counts positions from 0, a forward without position_ids from pad_token_id + 1"
INEXACT: dict[str, str] = {
    **dict.fromkeys(("camembert", "data2vec-text", "roberta", "roberta-prelayernorm"), _STARTS),
    **dict.fromkeys(("xlm-roberta", "xlm-roberta-xl", "xmod"), _STARTS),
    "prophetnet": "logits of a position change with the tokens after it",
    "reformer": "buckets of its hashed attention change with the length",
    "xlm": "generate() appends a mask token and reads there; it has no cache",
}
"""Other causal models whose greedy answers in transformers differ from one forward over prompt and answer, and why."""


def _free_generation(model: Any) -> None:
    """Plain greedy decoding of a fixed length: no end, and no token forced or forbidden."""
    from transformers import GenerationConfig

    if not hasattr(model, "generation_config") or model.generation_config is None:
        return
    start = getattr(model.config, "decoder_start_token_id", None)
    model.generation_config = GenerationConfig(
        use_cache=model.config.model_type not in UNCACHED,
        pad_token_id=getattr(model.config, "pad_token_id", None) or 0,
        decoder_start_token_id=start,
    )
    if (count := getattr(model.config, "composer_vocab_size", None)) is not None:
        tokens = {f"composer{number + 1}": 200 + number for number in range(count)}
        model.generation_config.composer_to_feature_token = tokens
    if hasattr(model.config, "use_mems_eval"):
        model.config.use_mems_eval = model.config.model_type not in UNCACHED
