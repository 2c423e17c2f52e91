"""What single architectures need beyond the seams: the only place where a model type is named.

A quirk changes a weightless copy of the model before it is run or traced, and says why nothing general does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

from torch import nn

from QEfficient.transformers.lowering.recompute import (
    Recomputed,
    right_aligned_inputs,
    with_mask_token,
    with_target_mapping,
)
from QEfficient.transformers.quirks import decoders, encoders, experts, recurrent, relative, seq2seq, sparse


@dataclass(frozen=True)
class LayerStates:
    """What the layers of an architecture keep, where its config has no layer types."""

    layer_type: str
    num_states: int
    """Convolutions or recurrent states of a layer, whichever are more."""


@dataclass(frozen=True)
class Quirk:
    """What one architecture needs."""

    reason: str
    methods: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    """``Class.method`` to the function that is called for it, the module first."""
    layers: LayerStates | None = None
    recomputed: Recomputed | None = None
    """How it is asked, where it runs over all tokens at every step although it may have a cache."""


def apply_quirks(model: nn.Module) -> None:
    """Change ``model``, a copy that is not the user's, as its architecture needs."""
    _describe_layers(model.config)
    types = {getattr(getattr(module, "config", None), "model_type", None) for module in model.modules()}
    methods = [item for name in types if name in QUIRKS for item in QUIRKS[name].methods.items()]
    for name, function in methods:
        owner, _, method = name.partition(".")
        for module in model.modules():
            if type(module).__name__ == owner:
                setattr(module, method, MethodType(function, module))


def recomputed(model: nn.Module) -> Recomputed | None:
    """How a model is asked that runs over all tokens at every step although it may have a cache."""
    quirk = _quirk(model)
    return None if quirk is None else quirk.recomputed


def why_recomputed(model: nn.Module) -> str | None:
    """Why such a model does; None for one that keeps nothing by itself."""
    quirk = _quirk(model)
    return None if quirk is None or quirk.recomputed is None else quirk.reason


def _quirk(model: Any) -> Quirk | None:
    return QUIRKS.get(model.config.get_text_config(decoder=True).model_type)


def _describe_layers(config: Any) -> None:
    quirk = QUIRKS.get(config.model_type)
    if quirk is not None and quirk.layers is not None:
        config.layer_types = [quirk.layers.layer_type] * config.num_hidden_layers
        config.number_of_conv_states = quirk.layers.num_states


_APPENDS = "it predicts in the place of a token that is put behind the newest, so no step is a continuation of the last"
_COUNTS = "it counts the positions of queries and keys from the length of its cache, the same for all rows"
_DATA_DEPENDENT = "its experts are picked by a loop over data, and it does not take an implementation from outside"
_OWN_STATE = "it keeps its state outside transformers' cache, and loops over tokens"
_MIXES = "its arithmetic mixes numbers with a mask of integers, which torch.onnx 2.13 cannot write"

QUIRKS = {
    "cpmant": Quirk(
        "its code takes the whole text at every step to find its past in it",
        recomputed=Recomputed(right_aligned_inputs, has_fixed_len=True),
    ),
    "dbrx": Quirk(_DATA_DEPENDENT, {"DbrxExperts.forward": experts.dbrx_experts}),
    "fsmt": Quirk("with a cache it takes no mask for its keys", {"FSMTDecoder.forward": seq2seq.causal_decoder}),
    "funnel": Quirk(
        "of an Einsum over what GatherElements takes of a constant, OpenVINO 2026.4 makes another product",
        {"FunnelRelMultiheadAttention.relative_positional_attention": encoders.position_scores},
    ),
    "gemma3n_text": Quirk(
        "it works out a constant with the inverse of the error function, which ONNX does not have",
        {"Gemma3nTextMLP._gaussian_topk": decoders.gaussian_topk},
    ),
    "gpt_neo": Quirk(
        "its masks are slices of a buffer by the number of keys, which takes the last slot for the newest token",
        {"GPTNeoSelfAttention._attn": decoders.local_attention},
    ),
    "inkling_text": Quirk(_COUNTS, {"InklingAttention.forward": relative.relative_attention}),
    "inkling2_text": Quirk(
        f"{_COUNTS}; and it cuts the windows of its convolutions in a way that holds for steps of several tokens alone",
        {
            "Inkling2SlidingAttention.forward": relative.relative_sink_attention,
            "Inkling2FullAttention.forward": relative.relative_sink_attention,
            "Inkling2DynamicShortConvolution.forward": relative.dynamic_convolution,
        },
    ),
    "jetmoe": Quirk(
        _DATA_DEPENDENT,
        {
            "JetMoeTopKGating.forward": experts.unsorted_gating,
            "JetMoeParallelExperts.forward": experts.parallel_experts,
        },
    ),
    "led": Quirk(
        "it finds tokens that see all others in the values of its mask, and texts have none; and it cuts its padding "
        "off by counting from the end, which leaves nothing of a text that has none",
        {
            "LEDEncoder._pad_to_window_size": seq2seq.padded_to_window,
            "LEDEncoderSelfAttention.forward": seq2seq.local_attention,
        },
    ),
    "longcat_flash": Quirk(_DATA_DEPENDENT, {"LongcatFlashExperts.forward": experts.longcat_experts}),
    "longformer": Quirk(
        "it works in whole windows, whose number is the length's, and finds tokens that see all in the mask's values",
        {
            "LongformerModel._pad_to_window_size": encoders.unpadded,
            "LongformerEncoder.forward": encoders.all_layers,
            "LongformerSelfAttention.forward": encoders.windowed_attention,
        },
    ),
    "minimax": Quirk(
        f"{_OWN_STATE}; and it refuses any cache but its own",
        {
            "MiniMaxLightningAttention.forward": recurrent.lightning_attention,
            "MiniMaxModel.forward": recurrent.without_use_cache,
        },
    ),
    "nllb-moe": Quirk(_DATA_DEPENDENT, {"NllbMoeSparseMLP.forward": experts.numbered_experts}),
    "prophetnet": Quirk(
        f"{_COUNTS}; it mixes the rows of a batch up; {_MIXES}",
        {
            "ProphetNetEncoder.forward": seq2seq.with_float_mask,
            "ProphetNetDecoder.forward": seq2seq.ngram_decoder,
            "ProphetNetNgramSelfAttention.get_predict_relative_pos_embeddings": seq2seq.ngram_biases,
        },
    ),
    "qwen4_exp_text": Quirk(
        "it picks keys in a loop over rows and tokens, as many as data tells; and it hashes in 64 bits, which OpenVINO "
        "and the card do not have",
        {
            "Qwen4ExpTextQSAIndexer.forward": sparse.block_indexer,
            "Qwen4ExpTextNGramEmbedding.forward": sparse.ngram_embedding,
        },
    ),
    "recurrent_gemma": Quirk(
        f"{_OWN_STATE}; and its recurrent blocks do not know which layer of the cache is theirs",
        {
            "RecurrentGemmaRecurrentBlock.forward": recurrent.rg_lru_block,
            "RecurrentGemmaModel.forward": recurrent.numbered_blocks,
        },
    ),
    "roformer": Quirk(
        "it takes the positions of one text for those of all rows",
        {"RoFormerSelfAttention.apply_rotary_position_embeddings": decoders.rotated_by_row},
    ),
    "rwkv": Quirk(
        f"{_OWN_STATE}; and it divides its weights when it first runs",
        {
            "RwkvModel.forward": recurrent.rwkv_model,
            "RwkvSelfAttention.forward": recurrent.rwkv_attention,
            "RwkvFeedForward.forward": recurrent.rwkv_feed_forward,
        },
        layers=LayerStates("linear_attention", 3),
    ),
    "switch_transformers": Quirk(_DATA_DEPENDENT, {"SwitchTransformersExperts.forward": experts.one_hot_experts}),
    "xlm": Quirk(_APPENDS, recomputed=Recomputed(with_mask_token, num_added=1)),
    "xlnet": Quirk(
        f"{_APPENDS}; and {_MIXES}",
        {"XLNetModel.forward": seq2seq.with_float_mask},
        recomputed=Recomputed(with_target_mapping, num_added=1),
    ),
    "xlstm": Quirk(
        _OWN_STATE,
        {"xLSTMModel.forward": recurrent.xlstm_model, "xLSTMBackend.forward": recurrent.mlstm},
        layers=LayerStates("linear_attention", 3),
    ),
    "zaya": Quirk(
        "it puts the columns before a step in front itself and hands the cache the last ones, padding or not",
        {"ZayaCCAProjection.forward": recurrent.zaya_projection},
    ),
}
"""One entry for each architecture, by model type."""
