"""The graphs that turn images into vectors, of a model that has a tower for them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.contract import Specialization
from QEfficient.errors import UnsupportedModel
from QEfficient.generation.media_encoder import MediaEncoderRecord
from QEfficient.transformers.models.media_encoders import (
    described,
    encoder_record,
    part_graphs,
    part_shapes,
    save_host_parameters,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from QEfficient.transformers.checkpoint.source import WeightSource
    from QEfficient.transformers.tasks.graph_spec import TaskGraph
    from QEfficient.transformers.tasks.media_parts import MediaEncoder


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
        from QEfficient.processing.samples import SIZES
        from QEfficient.transformers.tasks.media_parts import media_encoder

        encoder = media_encoder(self._model, "image", [self.sample(sizes) for sizes in SIZES["image"]])
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
        return described([self.encoder])

    def graphs(self) -> dict[str, TaskGraph]:
        """Its graphs by name."""
        return part_graphs(self._model, [self.encoder])

    def specializations(self, has_static_shapes: bool) -> dict[str, tuple[Specialization, ...]]:
        """The shapes of each graph; none where any shape runs."""
        from QEfficient.processing.samples import SIZES

        samples = [self.sample(sizes[:1]) for sizes in SIZES["image"]] if has_static_shapes else []
        return part_shapes(self._model, self.encoder, samples)

    def record(self, has_static_shapes: bool) -> MediaEncoderRecord:
        """What a package says of it."""
        return encoder_record(self._model, self.encoder, has_static_shapes=has_static_shapes)

    def write_files(self, folder: Path, weights: WeightSource) -> None:
        """Write into ``folder`` the processor, the config, and the parameters that the host's code reads."""
        from QEfficient.processing.processor import save_processor

        folder.mkdir(exist_ok=True)
        save_processor(self.processor, folder)
        self._model.config.save_pretrained(folder)
        save_host_parameters(self._model, [self.encoder], weights, folder)
