"""What an auto class asks of the encoders of its model: their graphs, shapes, records and files.

It knows no task: what the features are for is the business of the classes that call it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.contract import Specialization
from QEfficient.generation.media_encoder import FollowerRecord, MediaEncoderRecord, MediaPartRecord

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from QEfficient.transformers.checkpoint.source import WeightSource
    from QEfficient.transformers.tasks.graph_spec import TaskGraph
    from QEfficient.transformers.tasks.media_parts import MediaEncoder, MediaPart


def parts_of(encoders: Iterable[MediaEncoder]) -> list[MediaPart]:
    """The graphs of several encoders, in order."""
    return [part for encoder in encoders for part in encoder.parts]


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
