"""The graphs that turn images into vectors, of a model that has a tower for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.contract import Specialization
from QEfficient.errors import UnsupportedModel
from QEfficient.generation.media_encoder import MediaEncoderRecord, MediaPartRecord

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from QEfficient.transformers.checkpoint.source import WeightSource
    from QEfficient.transformers.tasks.graph_spec import TaskGraph
    from QEfficient.transformers.tasks.media_parts import MediaEncoder, MediaPart

_SAMPLES = (((448, 448), (448, 448)), ((896, 448),), ((336, 672),), ((1400, 1200),), ((64, 48),))
"""Width and height of images that show what an encoder takes, and what varies with them."""


class ImageTower:
    """The encoder of images of a model.

    Args:
        model: a Hugging Face model; its weights may be still to be read.
        processor: of transformers; makes of images what the model takes.
        has_texts: whether the processor reads images beside a text alone.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, *, has_texts: bool = False):
        self._model, self.processor, self._has_texts = model, processor, has_texts

    @cached_property
    def encoder(self) -> MediaEncoder:
        """Its graphs, measured on what the processor makes of images of several sizes.

        Raises:
            UnsupportedModel: the model takes something else than the processor makes.
        """
        from QEfficient.transformers.tasks.media_parts import media_encoder

        encoder = media_encoder(self._model, "image", [self.sample(sizes) for sizes in _SAMPLES])
        if encoder is None:
            raise UnsupportedModel(
                f"get_image_features() of {type(self._model).__name__} takes nothing of what its processor, a "
                f"{type(self.processor).__name__}, makes of images."
            )
        return encoder

    def sample(self, sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """What the processor makes of images of these sizes."""
        from QEfficient.processing.processor import process, process_images
        from QEfficient.processing.samples import picture

        pictures = [picture(*size) for size in sizes]
        if self._has_texts:
            return process(self.processor, "Describe this.", pictures)
        return process_images(self.processor, pictures)

    def described(self) -> tuple[str, ...]:
        """What decides its graphs, as text."""
        return tuple(repr((part.path, part.constants, part.axes, sorted(part.inputs))) for part in self.encoder.parts)

    def graphs(self) -> dict[str, TaskGraph]:
        """Its graphs by name."""
        from QEfficient.transformers.tasks.media_parts import part_graph

        return {part.name: part_graph(self._model, part) for part in self.encoder.parts}

    def specializations(self, has_static_shapes: bool) -> dict[str, tuple[Specialization, ...]]:
        """The shapes of each graph; none where any shape runs."""
        samples = [self.sample(sizes[:1]) for sizes in _SAMPLES] if has_static_shapes else []
        return {part.name: self._shapes(part, samples) for part in self.encoder.parts}

    def _shapes(self, part: MediaPart, samples: Sequence[Mapping[str, Any]]) -> tuple[Specialization, ...]:
        from QEfficient.transformers.tasks.media_parts import part_inputs

        shapes: dict[str, Specialization] = {}
        for sample in samples:
            tensors = part_inputs(self._model, part, sample) if part.axes else {}
            sizes = {name: tensors[key].shape[axis] for key, axes in part.axes.items() for axis, name in axes.items()}
            shapes.setdefault(str(sizes), Specialization(name="Vision", symbols=sizes or {"batch_size": 1}))
        return tuple(shapes.values())

    def record(self) -> MediaEncoderRecord:
        """What a package says of it."""
        from QEfficient.transformers.tasks.media_parts import output_names

        parts = tuple(
            MediaPartRecord(
                graph=part.name,
                path=part.path,
                inputs=tuple(part.inputs),
                outputs=tuple(output_names(part)),
                form=part.form,
            )
            for part in self.encoder.parts
        )
        return MediaEncoderRecord(modality="image", parts=parts, crops=self.encoder.tells_sizes)

    def write_files(self, folder: Path, weights: WeightSource) -> None:
        """Write into ``folder`` the processor, the config, and the parameters that the host's code reads."""
        from safetensors.torch import save_file

        from QEfficient.processing.host import PARAMETERS
        from QEfficient.processing.processor import save_processor
        from QEfficient.transformers.checkpoint.source import weight_value

        folder.mkdir(exist_ok=True)
        save_processor(self.processor, folder)
        self._model.config.save_pretrained(folder)
        base = self._model.base_model
        values = {name: weight_value(weights, base.get_parameter(name)) for name in self.encoder.host_parameters}
        if values:
            save_file(values, folder / PARAMETERS)
