"""What an auto class asks of the encoders of its model: their graphs, shapes, records and files.

It knows no task: what the features are for is the business of the classes that call it.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.base.modeling_qeff import OptionsT
from QEfficient.contract import Specialization
from QEfficient.errors import LifecycleError, OptionError, UnsupportedModel
from QEfficient.generation.media_encoder import FollowerRecord, MediaEncoderRecord, MediaPartRecord
from QEfficient.targets import Target

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from QEfficient.transformers.checkpoint.source import WeightSource
    from QEfficient.transformers.lowering.media import MediaTokens
    from QEfficient.transformers.tasks.graph_spec import TaskGraph
    from QEfficient.transformers.tasks.media_parts import MediaEncoder, MediaPart

logger = logging.getLogger(__name__)
_ENCODER_SHARE = 4


def measure_media(
    model: PreTrainedModel, processor: ProcessorMixin | None
) -> tuple[dict[str, MediaEncoder], MediaTokens, tuple[int, ...]]:
    """The encoders by modality, what stands for their features in prompts, and the token types that are blocks.

    Raises:
        LifecycleError: there is no processor.
        UnsupportedModel: the model has no encoder that takes what the processor makes, or it cannot run.
    """
    from QEfficient.transformers.tasks.media_tokens import block_types, crossing_media, media_tokens

    name = type(model).__name__
    if processor is None:
        raise without_processor(name)
    with _of_another_model(model, processor):
        modalities = _modalities(model, processor)
        measured = {each: _measured(model, processor, each, is_alone=len(modalities) == 1) for each in modalities}
        encoders = {modality: each[0] for modality, each in measured.items() if each is not None}
        samples = [each[1] for each in measured.values() if each is not None]
        if not encoders:
            raise UnsupportedModel(
                f"{name} has no get_image_features() or get_audio_features() that takes what "
                f"{type(processor).__name__} makes."
            )
        tokens = crossing_media(model, media_tokens(model, encoders, samples[0]), samples[0])
        return encoders, tokens, block_types(model, tokens)


@contextmanager
def _of_another_model(model: PreTrainedModel, processor: ProcessorMixin) -> Iterator[None]:
    """Blame the processor for what fails, where it is not of the class that the model's is.

    Raises:
        OptionError: it is.
    """
    from transformers import PROCESSOR_MAPPING

    from QEfficient.transformers.lowering.representative_layers import FAILURES

    try:
        yield
    except (OptionError, UnsupportedModel, *FAILURES) as error:
        usual = PROCESSOR_MAPPING.get(type(model.config), None)
        if usual is None or isinstance(processor, usual):
            raise
        said = " ".join(str(error).split())[:200]
        raise OptionError(
            f"{type(processor).__name__} is the processor of another model: {type(model).__name__} comes with a "
            f"{usual.__name__}, and does not run on what this one makes ({said}). Pass processor=... of its checkpoint."
        ) from error


def check_adapter(folder: Path) -> None:
    """
    Raises:
        UnsupportedModel: a checkpoint has an adapter beside its weights, which transformers turns on for prompts with
            media.
    """
    from QEfficient.transformers.checkpoint.other_layouts import ADAPTER_CONFIG, has_adapter_beside

    if has_adapter_beside(folder):
        raise UnsupportedModel(
            f"{folder.name} has a LoRA adapter ({folder / ADAPTER_CONFIG}), which transformers applies to prompts with "
            "audio or images alone; adapters of such models are not run. Merge it: save what "
            "PeftModel.from_pretrained(model, folder).merge_and_unload() returns, with has_lora_adapter false in its "
            "config."
        )


def without_processor(name: str) -> LifecycleError:
    """The error of a model whose media cannot be measured."""
    return LifecycleError(
        f"{name} has no processor, which shows what images or audio become: pass processor=..., or load a checkpoint "
        "that has one with from_pretrained()."
    )


def _modalities(model: PreTrainedModel, processor: ProcessorMixin) -> list[str]:
    """Those that a model and its processor have."""
    from QEfficient.processing.media import encoder_method
    from QEfficient.processing.processor import sampling_rate

    reads = {
        "image": getattr(processor, "image_processor", None) is not None,
        "audio": sampling_rate(processor) is not None,
    }
    return [name for name, is_read in reads.items() if is_read and encoder_method(model, name) is not None]


def _measured(
    model: PreTrainedModel, processor: ProcessorMixin, modality: str, *, is_alone: bool
) -> tuple[MediaEncoder, Mapping[str, Any]] | None:
    """The encoder of ``modality``, and a processor's output for it; None where the model has none. One of several
    that cannot run leaves the others, with a warning."""
    from QEfficient.processing.samples import prompt_samples
    from QEfficient.transformers.lowering.representative_layers import FAILURES
    from QEfficient.transformers.tasks.media_parts import media_encoder
    from QEfficient.transformers.tasks.media_tokens import placeholder

    try:
        samples = prompt_samples(processor, modality)
        encoder = media_encoder(model, modality, samples)
        if encoder is None:
            return None
        if not is_alone:
            placeholder(model, modality)
    except (OptionError, LifecycleError, *FAILURES) as error:
        if is_alone:
            raise
        said = " ".join(str(error).split())[:200]
        logger.warning("%s is run without its encoder of '%s': %s", type(model).__name__, modality, said)
        return None
    return encoder, samples[-1]


def known_names(model: PreTrainedModel, samples: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """What a processor's output may have: what it has for media of each modality, and what ``model`` takes beside
    media of others.

    Args:
        model: a Hugging Face model.
        samples: a processor's output by modality, of those that the model's encoders take.
    """
    from QEfficient.processing.media import MAIN_INPUTS, encoder_method
    from QEfficient.processing.rope import index_method

    methods = [encoder_method(model, modality) for modality in samples]
    taken = [parameters(method) for method in (*methods, index_method(model)) if method is not None]
    beside = parameters(model.forward) - MAIN_INPUTS
    return tuple(sorted(beside.union(*taken, *(sample.keys() for sample in samples.values()))))


def parameters(function: Callable[..., object]) -> frozenset[str]:
    """Names of its parameters."""
    return frozenset(inspect.signature(function).parameters)


def parts_of(encoders: Iterable[MediaEncoder]) -> list[MediaPart]:
    """The graphs of several encoders, in order."""
    return [part for encoder in encoders for part in encoder.parts]


def sharing_cores(
    options: OptionsT, target: Target, num_encoders: int, *, is_encoder: bool, share: int = _ENCODER_SHARE
) -> OptionsT:
    """Options of a graph that is on a card beside others: one core in ``share`` is for the encoders' graphs."""
    if not target.has_static_shapes or not 0 < num_encoders < options.num_cores:
        return options
    for_encoder = max(1, options.num_cores // share // num_encoders)
    num_cores = for_encoder if is_encoder else options.num_cores - num_encoders * for_encoder
    return replace(options, num_cores=num_cores)


def described(encoders: Iterable[MediaEncoder]) -> tuple[str, ...]:
    """What decides the graphs of encoders, as text."""
    return tuple(repr((part.steps, part.axes, sorted(part.inputs))) for part in parts_of(encoders))


def part_graphs(model: PreTrainedModel, encoders: Iterable[MediaEncoder]) -> dict[str, TaskGraph]:
    """The graphs of encoders by name, ready to trace."""
    from QEfficient.transformers.tasks.media_graphs import part_graph

    return {part.name: part_graph(model, part) for part in parts_of(encoders)}


def part_shapes(
    model: PreTrainedModel, encoder: MediaEncoder, samples: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[Specialization, ...]]:
    """The shapes of each graph for what a processor makes of media of some sizes; none where any shape runs."""
    from QEfficient.transformers.tasks.media_parts import part_sizes

    shapes: dict[str, dict[str, Specialization]] = {part.name: {} for part in encoder.parts}
    for sample in samples:
        for name, calls in part_sizes(model, encoder, sample).items():
            for sizes in calls:
                symbols = sizes or {"batch_size": 1}
                shapes[name].setdefault(str(symbols), Specialization(name="Vision", symbols=symbols))
    return {name: tuple(by_size.values()) for name, by_size in shapes.items()}


def encoder_record(
    model: PreTrainedModel, encoder: MediaEncoder, *, has_static_shapes: bool, rows_mask: str = ""
) -> MediaEncoderRecord:
    """What a package says of an encoder.

    Args:
        model: a Hugging Face model.
        encoder: of the model.
        has_static_shapes: whether its graphs run for compiled sizes alone.
        rows_mask: see :class:`MediaEncoderRecord`.
    """
    from QEfficient.transformers.tasks.media_graphs import has_independent_rows

    parts = (
        MediaPartRecord(
            graph=part.name,
            path=part.path,
            inputs=tuple(part.inputs),
            outputs=part.outputs,
            form=part.steps[0].form,
            followers=tuple(
                FollowerRecord(path=step.path, argument=step.piped or "", form=step.form) for step in part.steps[1:]
            ),
            has_independent_rows=has_static_shapes and has_independent_rows(model, part),
        )
        for part in encoder.parts
    )
    return MediaEncoderRecord(
        modality=encoder.modality,
        parts=tuple(parts),
        crops=encoder.tells_sizes,
        idle=dict(encoder.idle),
        rows_mask=rows_mask,
    )


def save_host_parameters(
    model: PreTrainedModel, encoders: Iterable[MediaEncoder], weights: WeightSource, folder: Path
) -> None:
    """Write the parameters that the code around the graphs reads, if there are any."""
    from safetensors.torch import save_file

    from QEfficient.processing.host import PARAMETERS
    from QEfficient.transformers.checkpoint.source import weight_value

    names = {name for encoder in encoders for name in encoder.host_parameters}
    values = {name: weight_value(weights, model.base_model.get_parameter(name)) for name in sorted(names)}
    if values:
        save_file(values, folder / PARAMETERS)
