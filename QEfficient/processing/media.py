"""transformers' code around the towers of a model: which inputs a tower gets, and what becomes of its output.

``get_image_features`` and its kin turn a processor's output into features. The modules that they call hold nearly all
weights: these are the parts that get compiled. What happens between them stays transformers' code, on the host.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from QEfficient.contract import Json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODALITIES = ("image", "video", "audio")
MAIN_INPUTS = frozenset(
    {"pixel_values", "pixel_values_images", "pixel_values_videos", "image_patches", "flattened_patches"}
    | {"input_features", "input_values"}
)
"""What a processor makes of media, by transformers' names."""
EMBEDS = "image_embeds"
"""The argument of a decoder that takes features, in models that have no method for these."""
VARLEN: dict[str, Callable[..., Any]] = {
    "is_flash_attention_requested": lambda *args, **kwargs: True,
    "get_max_seqlen": lambda *args, **kwargs: None,
}
"""Replacements of functions of modeling files: encoders then give the lengths of their sequences to the attention
function, instead of splitting the tokens by them."""
_NO_ARGUMENTS = frozenset({"return_dict", "max_length_q", "max_length_k"})
"""Arguments that change no value: the type of the output, and sizes that kernels of FlashAttention take."""
_GRIDS = ("grid_thw", "grid_hw")
"""How the names of arguments end that have the sizes of images in patches, where these lie on one axis."""
_NOISE = "sample"
"""An argument of ``get_*_features`` that adds noise to features, drawn anew at every call."""
Outputs = Any
"""What a module returns: a tensor, a tuple or a list, or transformers' ModelOutput."""


_CROSSINGS = (("cross_attention_states", "cross_attention_mask"), ("image_encoder_embeddings", "image_attention_mask"))
"""Arguments of language models with cross-attention to images: the images' states, and the parts of images that each
token sees."""
_RESAMPLED = "perceiver_embeddings"
"""In place of the first, where a resampler makes states of the encoder's."""
_OF_TEXT = frozenset(
    {"input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds", "use_cache", _RESAMPLED}
)


def cross_arguments(model: nn.Module) -> tuple[str, str] | None:
    """The arguments of a language model's forward for images that its layers attend to: states, and a mask of what each
    token sees; None for other models."""
    parameters = inspect.signature(model.forward).parameters
    for states, mask in _CROSSINGS:
        if {"input_ids", states, mask} <= parameters.keys():
            is_resampled = _RESAMPLED in parameters and getattr(model.config, "use_resampler", False)
            return (_RESAMPLED if is_resampled else states), mask
    return None


class CrossEncoder:
    """The encoder of images before such a language model: what the base model runs before the layers.

    Args:
        model: the base model; changed for the time of a call, so that no layer runs.
        arguments: of :func:`cross_arguments`.
    """

    def __init__(self, model: nn.Module, arguments: tuple[str, str]):
        self._model: Any = model
        self._states, self._mask = arguments
        inner = (each for each in model.modules() if each is not model)
        self._reader: Any = next((each for each in inner if cross_arguments(each) == arguments), None)
        others = _OF_TEXT.union(*_CROSSINGS)
        names = [each for each in inspect.signature(model.forward).parameters if each not in others]
        # What inspect.signature() says of this object: the arguments that are about images.
        self.__signature__ = inspect.Signature(
            [inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY) for each in names]
        )

    def __call__(self, **images: torch.Tensor) -> PartOutput:
        """The states of one image, ``[tiles, states of a tile, D]``."""
        token = torch.zeros(1, 1, dtype=torch.int64)
        run = self._before_layers if self._reader is None else self._before_reader
        return PartOutput(last_hidden_state=run({"input_ids": token, **images}))

    def _before_reader(self, arguments: dict[str, torch.Tensor]) -> torch.Tensor:
        """What the base model passes to a language model inside."""
        passed: list[torch.Tensor] = []

        def note(**arguments: Any) -> PartOutput:
            passed.append(arguments[self._states])
            return PartOutput()

        self._reader.forward = note
        try:
            self._model(**arguments)
        finally:
            del self._reader.forward
        return passed[0]

    def _before_layers(self, arguments: dict[str, torch.Tensor]) -> torch.Tensor:
        """What the base model, a language model itself, returns of images."""
        layers, self._model.layers = self._model.layers, nn.ModuleList()
        seen = torch.ones(1, 1, 1, dtype=torch.int64)
        try:
            return self._model(**arguments, **{self._mask: seen}).image_hidden_states.flatten(0, 1)
        finally:
            self._model.layers = layers


def encoder_method(model: PreTrainedModel, modality: str) -> Callable[..., Any] | None:
    """The method that gives a modality's features; None for a model without the modality."""
    from QEfficient.transformers.quirks import added_features

    name = f"get_{modality}_features"
    method: Callable[..., Any] | None = getattr(model.base_model, name, None)
    if method is None and modality == "image":
        arguments = cross_arguments(model.base_model)
        method = features_of_forward(model) if arguments is None else CrossEncoder(model.base_model, arguments)
    return method or getattr(model, name, None) or added_features(model, modality)


def features_of_forward(model: nn.Module) -> Callable[..., Any] | None:
    """A method of images' features where only the forward computes them; None for a model that does not pass them on as
    :data:`EMBEDS`."""
    decoder = getattr(model, "get_decoder", lambda: model)()
    taken = inspect.signature(decoder.forward).parameters
    names = [name for name in inspect.signature(model.forward).parameters if name in MAIN_INPUTS - taken.keys()]
    return _FeaturesOfForward(model, decoder, names) if EMBEDS in taken and decoder is not model and names else None


class _FeaturesOfForward:
    """What the forward of ``model`` passes to its ``decoder``."""

    def __init__(self, model: Any, decoder: nn.Module, names: Sequence[str]):
        self._model = model
        self._path = next(path for path, module in model.named_modules() if module is decoder)
        keyword = inspect.Parameter.KEYWORD_ONLY
        self.__signature__ = inspect.Signature([inspect.Parameter(name, keyword) for name in names])

    def __call__(self, **inputs: torch.Tensor) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithCrossAttentions

        passed: list[torch.Tensor] = []

        def note(*args: Any, **arguments: Any) -> CausalLMOutputWithCrossAttentions:
            passed.append(arguments[EMBEDS])
            return CausalLMOutputWithCrossAttentions()  # an error would leave a trace in disorder

        with replaced(self._model, {self._path: note}):
            self._model(input_ids=torch.zeros(1, 1, dtype=torch.int64), **inputs)
        return BaseModelOutputWithPooling(pooler_output=passed[0])


def encoder_inputs(model: PreTrainedModel, modality: str, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`encoder_method` takes of a processor's output; nothing where that has no such media."""
    method = encoder_method(model, modality)
    if method is None:
        return {}
    names = [name for name in inspect.signature(method).parameters if name != "kwargs"]
    inputs = {name: batch[name] for name in names if batch.get(name) is not None}
    if isinstance(method, CrossEncoder):  # images of each prompt, as prompts of one image
        return {name: value.flatten(0, 1)[:, None] for name, value in inputs.items()}
    if names[0] in MAIN_INPUTS - inputs.keys():
        inputs |= _old_input(model, batch)
    return inputs if inputs.keys() & MAIN_INPUTS else {}


def _old_input(model: PreTrainedModel, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The pixels of a batch that the model's forward takes under a name that its encoder no longer has."""
    methods = [method for name in MODALITIES if (method := encoder_method(model, name)) is not None]
    known = {name for method in methods for name in inspect.signature(method).parameters}
    taken = (MAIN_INPUTS - known) & batch.keys() & inspect.signature(model.forward).parameters.keys()
    return {name: batch[name] for name in taken} if len(taken) == 1 else {}


def encode(model: PreTrainedModel, modality: str, inputs: Mapping[str, Any]) -> Any:
    """The output of the encoder of ``modality``, as ``mm_encoder_outputs`` of the model's forward."""
    method = encoder_method(model, modality)
    assert method is not None
    options = {"return_dict": True} if _takes(method, "return_dict") else {}
    names = inspect.signature(method).parameters
    pixels, *_ = names
    if _NOISE in names:
        options[_NOISE] = False
    passed = {name if name in names else pixels: value for name, value in inputs.items()}
    with torch.no_grad(), _Unsplit(passed):
        return method(**passed, **options)


class _Unsplit(TorchFunctionMode):
    """Leaves whole what is split into chunks of one size: transformers' code does so with long audio, to save memory,
    and hands the state of convolutions from chunk to chunk, which the graph of one chunk does not have."""

    def __init__(self, inputs: Mapping[str, Any]):
        super().__init__()
        self._inputs = [value for value in inputs.values() if isinstance(value, torch.Tensor)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.split and any(args[0] is each for each in self._inputs) and type(args[1]) is int:
            return (args[0],)
        return func(*args, **(kwargs or {}))


def _takes(method: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(method).parameters
    return name in parameters or any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())


def main_field(output: Outputs) -> str:
    """The field of an encoder's output where features for the embeddings are."""
    has_others = output.pooler_output is not None or getattr(output, "deepstack_features", None)
    return "pooler_output" if has_others else "last_hidden_state"


def feature_rows(output: Outputs) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    """Features ``[V, D]`` of an encoder's output, and those that each layer gets besides."""
    layers = getattr(output, "deepstack_features", None) or ()
    pooled = getattr(output, main_field(output))
    return None if pooled is None else _rows(pooled), [_rows(layer) for layer in layers]


def _rows(nest: Any) -> torch.Tensor:
    """All tensors of a nest of lists, as rows."""
    if isinstance(nest, torch.Tensor):
        return nest.reshape(-1, nest.shape[-1])
    return torch.cat([_rows(item) for item in nest if isinstance(item, torch.Tensor | list | tuple)])


def called_with(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, without those that change no value: None where that may be left out."""
    bound = inspect.signature(forward).bind(*args, **kwargs)
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        is_rest = bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        named.update(value if is_rest else {name: value})
    optional = {
        each.name for each in bound.signature.parameters.values() if each.default is not inspect.Parameter.empty
    }
    return {
        name: value
        for name, value in named.items()
        if name not in _NO_ARGUMENTS
        and (value is not None or name not in optional)
        and not (value is False and name.startswith("output_"))
    }


def expanded(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with a name for each tensor of those that are lists of tensors: ``cos_sin.0``, ``cos_sin.1``."""
    named: dict[str, Any] = {}
    for name, value in arguments.items():
        is_list = isinstance(value, list | tuple) and value and all(isinstance(item, torch.Tensor) for item in value)
        named.update({f"{name}.{place}": item for place, item in enumerate(value)} if is_list else {name: value})
    return named


def grouped(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The opposite of :func:`expanded`."""
    groups: dict[str, Any] = {}
    for name, value in arguments.items():
        owner, _, place = name.rpartition(".")
        if place.isdigit():
            groups[owner] = (*groups.get(owner, ()), value)
        else:
            groups[name] = value
    return groups


@contextmanager
def replaced(owner: nn.Module, functions: Mapping[str, Callable[..., Outputs]]) -> Iterator[None]:
    """Call ``functions`` in place of the forwards of submodules of ``owner``, by their paths."""
    modules = [(owner.get_submodule(path), function) for path, function in functions.items()]
    for module, function in modules:
        module.forward = function
    try:
        yield
    finally:
        for module, _ in modules:
            del module.forward


class PartOutput:
    """A module's output with fields, as transformers' code reads and changes it."""

    def __init__(self, fields: Mapping[str, Outputs] | None = None, **others: Outputs):
        self.__dict__.update(fields or {}, **others)

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)

    def __setitem__(self, key: str, value: Outputs) -> None:
        self.__dict__[key] = value

    def items(self) -> list[tuple[str, Outputs]]:
        """Its fields that have a value."""
        return [(name, value) for name, value in self.__dict__.items() if value is not None]

    def __getitem__(self, key: int | str) -> Outputs:
        if isinstance(key, str):
            return self.__dict__[key]
        return [value for value in self.__dict__.values() if value is not None][key]


def flattened(outputs: Outputs, leaves: list[torch.Tensor], is_used: Callable[[torch.Tensor], bool]) -> Any:
    """The form of ``outputs`` as JSON: the place of each used tensor in ``leaves``, which this appends to."""
    if isinstance(outputs, torch.Tensor):
        if not is_used(outputs):
            return None
        known = [place for place, leaf in enumerate(leaves) if leaf is outputs]
        if not known:
            leaves.append(outputs)
        return known[0] if known else len(leaves) - 1
    if hasattr(outputs, "keys"):
        return {name: flattened(outputs[name], leaves, is_used) for name in outputs.keys()}  # noqa: SIM118
    if isinstance(outputs, list | tuple):
        return [flattened(item, leaves, is_used) for item in outputs]
    return None


def rebuilt(form: Json, leaves: list[torch.Tensor]) -> Outputs:
    """The outputs of a form of :func:`flattened`."""
    if isinstance(form, int):
        return leaves[form]
    if isinstance(form, dict):
        return PartOutput({name: rebuilt(item, leaves) for name, item in form.items()})
    return None if form is None else tuple(rebuilt(item, leaves) for item in form)


def split_images(inputs: Mapping[str, Any], *, crops: bool = False) -> Iterator[dict[str, Any]]:
    """The inputs of an encoder for each of its images, as far as their shapes tell which rows belong to which.

    Args:
        inputs: of several images.
        crops: whether the encoder takes pixels for an image's size, without what pads them to the size of others.
    """
    tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    others = {name: value for name, value in inputs.items() if name not in tensors}
    grid = next((value for name, value in tensors.items() if name.endswith(_GRIDS)), None)
    counts = {name: len(value) for name, value in tensors.items()}
    num_images = max(counts.values()) if grid is None else len(grid)
    sizes = [] if grid is None else grid.prod(-1).tolist()
    parts: dict[str, Sequence[torch.Tensor]] = {}
    for name, value in tensors.items():
        if counts[name] == num_images:
            parts[name] = value.split(1)
        elif sizes and sum(sizes) == counts[name]:
            parts[name] = value.split(sizes)
        else:
            yield dict(inputs)
            return
    for place in range(num_images):
        image = {**others, **{name: values[place] for name, values in parts.items()}}
        yield _cropped(image) if crops else image


def _cropped(image: dict[str, Any]) -> dict[str, Any]:
    """The inputs of one image without what pads it to the size of the others."""
    pixels, sizes = image.get("pixel_values"), image.get("image_sizes")
    if isinstance(pixels, torch.Tensor) and pixels.ndim == 4 and isinstance(sizes, torch.Tensor) and len(sizes) == 1:
        height, width = sizes[0].tolist()
        return {**image, "pixel_values": pixels[:, :, :height, :width]}
    return image
