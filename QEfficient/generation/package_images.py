"""The images of a package: its encoder, its processor, and what the model computes of them on the host."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from QEfficient.generation.media_encoder import FeatureCache, MediaEncoder, MediaEncoderRecord
from QEfficient.generation.programs.program import Program

if TYPE_CHECKING:
    from transformers import ProcessorMixin

    from QEfficient.processing.host import HostModel


class PackageImages:
    """What encodes the images of a package that gives vectors.

    Args:
        images: what the package says of the encoder; None: it has none.
        programs: the encoder's graphs by name; closed with this.
        folder: the package's, with its processor.
    """

    def __init__(self, images: MediaEncoderRecord | None, programs: Mapping[str, Program], folder: Path):
        self._programs, self.folder = programs, folder
        self.encoder = None if images is None else MediaEncoder(images, programs, lambda: self.host, FeatureCache())

    def close(self) -> None:
        """Release the graphs."""
        for program in self._programs.values():
            program.close()

    @cached_property
    def host(self) -> HostModel:
        """The model's code around the graphs."""
        from QEfficient.processing.host import HostModel
        from QEfficient.processing.processor import FOLDER
        from QEfficient.transformers.checkpoint.text_encoders import TextEncoders

        return HostModel(self.folder / FOLDER, TextEncoders)

    @cached_property
    def processor(self) -> ProcessorMixin:
        """The package's processor."""
        from QEfficient.processing.processor import FOLDER, open_processor

        return open_processor(self.folder / FOLDER)
