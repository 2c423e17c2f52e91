"""Overrides of single model types, where no seam of transformers reaches: the only place that names one.

One file per model type, with its :class:`Quirk`, is imported when a model of that type is met. It changes a weightless
copy of the model before that is run or traced. :data:`REASONS` says why nothing general does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MethodType
from typing import Any

from torch import nn

from QEfficient.transformers.lowering.recompute import Recomputed

_APPENDS = "it predicts at a token appended after the newest, so that no step continues the one before"
_COUNTS = "it counts query and key positions from the length of its cache, the same for all rows"
_DATA_DEPENDENT = "it picks experts in a loop over data, and takes no experts implementation from outside"
_OFFSET = "it numbers positions from an offset, but not those that it is passed"
_OWN_STATE = "it keeps its state outside transformers' cache, and loops over tokens"
_PADS_BLOCKS = "it asks whether a block needs padding, which depends on the length"
_INTEGER_MASK = "it subtracts a mask of integers from a float, which torch.onnx 2.13 cannot export"

REASONS = {
    "chameleon": "it overwrites logits by a list of tokens as its last operator, which torch.onnx 2.13 loses; and it "
    "fills a table in a loop while it runs",
    "cpmant": "its code needs all tokens at every step, to find its past among them",
    "dbrx": _DATA_DEPENDENT,
    "ernie4_5_vl_moe_text": "it runs its experts of images on the image tokens alone, whose number depends on data",
    "falcon": "it asks for the name of its attention, and under any but SDPA's adds its ALiBi bias twice",
    "fsmt": "it drops its causal mask when it has a cache",
    "funnel": "OpenVINO 2026.4 computes a wrong product for its Einsum over GatherElements of a constant",
    "gemma3n_text": "it computes a constant with the inverse error function, which ONNX does not have",
    "glm5_next_text": "it drops pools of keys that are not whole, whose number depends on data, and counts positions "
    "from the length of its cache",
    "gpt_neo": "it slices masks from a buffer by the number of keys, as if the newest token were in the last slot",
    "granite_speech5_encoder": _PADS_BLOCKS,
    "granite_speech_encoder": _PADS_BLOCKS,
    "granite_speech_plus_encoder": _PADS_BLOCKS,
    "inkling_text": _COUNTS,
    "inkling2_text": f"{_COUNTS}; and it cuts the windows of its convolutions right for steps of several tokens only",
    "jetmoe": _DATA_DEPENDENT,
    "kosmos_2_5_text_model": f"{_OFFSET}; and its encoder looks for padding in the values of its mask",
    "kosmos_2_text_model": f"{_OFFSET}; and it takes no features beside past tokens, and no masks from outside",
    "kyutai_speech_to_text": "its embeddings take the codes of an audio codec with every token, and no method of it "
    "makes features of these",
    "led": "it looks for global tokens in the values of its mask, where text has none; and it removes padding by a "
    "slice from the end, which is empty where there was none to add",
    "longcat_flash": _DATA_DEPENDENT,
    "longformer": "it works in whole windows, whose number depends on the length, and looks for global tokens in the "
    "values of its mask",
    "longt5": "it asks whether a block needs padding, which depends on the length, by sizes that tracing cannot follow",
    "mimi": "it pads by sizes in tensors, which tracing cannot follow, otherwise than in the streams that it is run "
    "over; and its codebooks keep a table that they compute when they first run",
    "minimax": f"{_OWN_STATE}; and it rejects any cache class but the one in its modeling file",
    "moonshine": "it counts frames in floats, which tracing settles at those of the sample",
    "moonshine_streaming_encoder": "it takes whole frames of samples alone, and has windows only where it has a mask",
    "nllb-moe": _DATA_DEPENDENT,
    "ovis2": "its encoder gives rows of a table beside features, for other tokens than images, and looks for these",
    "phimoe": "it scales its rotary embedding by the greatest position of a step, which depends on data",
    "pop2piano": "a row for the composer, which no forward adds, comes before its features",
    "prophetnet": f"{_COUNTS}; it mixes the rows of a batch up; {_INTEGER_MASK}",
    "qwen3_omni_moe_audio_encoder": "it cuts its chunks into pieces, whose number depends on the length",
    "qwen4_exp_text": "it picks keys in a loop over rows and tokens, their number depending on data; and it hashes in "
    "64 bits, which OpenVINO and the card do not have",
    "qwen3_asr_encoder": "it picks the places that hold audio, whose number depends on the values of its mask",
    "recurrent_gemma": f"{_OWN_STATE}; and its recurrent blocks do not know their layer index",
    "roformer": "it uses the positions of one row for all rows",
    "rwkv": f"{_OWN_STATE}; and it divides its weights when it first runs",
    "step3p5": _DATA_DEPENDENT,
    "step3p5_vision": "it does not interpolate positions for images of its usual size, so that a trace of one keeps it",
    "switch_transformers": _DATA_DEPENDENT,
    "whisper": "its encoder refuses audio of any length but one, and a card's one program runs it over one frame "
    "while it decodes",
    "xlm": _APPENDS,
    "xlnet": f"{_APPENDS}; and {_INTEGER_MASK}",
    "xlstm": _OWN_STATE,
    "zaya": "it prepends the columns before a step itself, and gives the cache the last ones, padding or not",
}
"""Model type -> why it needs overrides."""


@dataclass(frozen=True)
class LayerStates:
    """What each layer of a model keeps, where its config has no layer types."""

    layer_type: str
    num_states: int
    """Convolution states or recurrent states of a layer, the larger of the two numbers."""


@dataclass(frozen=True, kw_only=True)
class PrefixTable:
    """Rows that an option of generation picks one of, to come before the features of audio."""

    option: str
    weight: str
    """Path of the parameter with the rows."""
    names: str
    """Entry of the generation config: what the option may be -> a token; the least token is that of the first row."""
    default: str


@dataclass(frozen=True, kw_only=True)
class Quirk:
    """The overrides of one model type."""

    methods: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    """``Class.method`` -> the function called in its place, with the module first."""
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    """Function of the modeling file -> the function called in its place while the model runs."""
    arguments: Mapping[str, Mapping[str, Callable[..., Any]]] = field(default_factory=dict)
    """Class -> arguments of its forward that the host computes of the others, each with a function of the module and
    these."""
    completes: bool = False
    """Whether the model takes some inputs only with the overrides: it is measured with them too."""
    added: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    """Modality -> the method that gives a row of features for each token, to be added to its embedding."""
    prefix: PrefixTable | None = None
    layers: LayerStates | None = None
    recomputed: Recomputed | None = None
    """Inputs of a model that runs over all tokens at every step although it may have a cache."""


def load(model_type: str | None) -> Quirk | None:
    """The overrides of ``model_type``; None if it needs none."""
    if model_type not in REASONS:
        return None
    quirk: Quirk = import_module(f"{__name__}.{model_type.replace('-', '_')}").QUIRK
    return quirk


def apply_quirks(model: nn.Module) -> None:
    """Apply the overrides of methods to ``model``, a copy that is not the user's."""
    _set_layer_types(model.config)
    _override(model, _quirks(model))


def complete(model: nn.Module) -> None:
    """Apply the overrides without which ``model``, a copy that is not the user's, takes not all inputs."""
    _override(model, [quirk for quirk in _quirks(model) if quirk.completes])


def _override(model: nn.Module, quirks: list[Quirk]) -> None:
    for name, function in (item for quirk in quirks for item in quirk.methods.items()):
        owner, _, method = name.partition(".")
        for module in model.modules():
            if type(module).__name__ == owner:
                setattr(module, method, MethodType(function, module))


def replaced_functions(model: nn.Module) -> dict[str, Callable[..., Any]]:
    """The overrides of functions in the modeling files of ``model``, by name."""
    return {name: function for quirk in _quirks(model) for name, function in quirk.functions.items()}


def host_arguments(module: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the host computes of the arguments of a call of ``module``."""
    quirk = load(getattr(getattr(module, "config", None), "model_type", None))
    functions = {} if quirk is None else quirk.arguments.get(type(module).__name__, {})
    return {name: function(module, arguments) for name, function in functions.items()}


def added_features(model: nn.Module, modality: str) -> Callable[..., Any] | None:
    """What gives the features of a modality that are added to all tokens, where ``model`` has no method for these."""
    quirk = load(getattr(model.config, "model_type", None))
    function = None if quirk is None else quirk.added.get(modality)
    return None if function is None else MethodType(function, model)


def prefix_table(model: nn.Module) -> PrefixTable | None:
    """Rows that an option of generation picks one of, to come before the features of audio."""
    quirk = load(getattr(model.config, "model_type", None))
    return None if quirk is None else quirk.prefix


def recomputed(model: nn.Module) -> Recomputed | None:
    """Inputs of a model that runs over all tokens at every step although it may have a cache."""
    quirk = load(_text_model_type(model))
    return None if quirk is None else quirk.recomputed


def why_recomputed(model: nn.Module) -> str | None:
    """Why such a model does; None for any other."""
    return None if recomputed(model) is None else REASONS[_text_model_type(model)]


def _text_model_type(model: nn.Module) -> str:
    model_type: str = model.config.get_text_config(decoder=True).model_type
    return model_type


def _quirks(model: nn.Module) -> list[Quirk]:
    """Those of all model types that occur in ``model``."""
    types = dict.fromkeys(getattr(getattr(module, "config", None), "model_type", None) for module in model.modules())
    return [quirk for quirk in map(load, types) if quirk is not None]


def _set_layer_types(config: Any) -> None:
    quirk = load(config.model_type)
    if quirk is not None and quirk.layers is not None:
        config.layer_types = [quirk.layers.layer_type] * config.num_hidden_layers
        config.number_of_conv_states = quirk.layers.num_states
