"""Vectors of texts and of images in one space, and how well they fit: the packages of models with two towers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from QEfficient.contract import Count, Range
from QEfficient.errors import CapacityError, LifecycleError, OptionError
from QEfficient.generation.media_encoder import MediaEncoderRecord
from QEfficient.generation.package_images import PackageImages
from QEfficient.generation.programs.program import Program
from QEfficient.generation.sessions.encoder import EncoderSession, InputContract
from QEfficient.generation.texts import EncodedText

if TYPE_CHECKING:
    from transformers import ProcessorMixin

    from QEfficient.processing.images import Picture

Pictures = Any
"""An image, a list of them, or a processor's output: see :data:`QEfficient.processing.images.Picture`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextFrame:
    """The one length that all texts get, of a model that reads the vector at a place, whatever is there."""

    length: Count
    token_id: Annotated[int, Range(0)]
    """Of the padding."""
    side: Literal["left", "right"]
    is_masked: bool
    """Whether tokens attend to no padding."""

    def around(self, index: int, text: EncodedText) -> EncodedText:
        """A text of this length.

        Raises:
            CapacityError: it is longer.
        """
        num_added = self.length - len(text.ids)
        if num_added < 0:
            raise CapacityError(
                f"Text {index} has {len(text.ids)} tokens, and this model gives vectors of at most {self.length}: "
                "shorten it; nothing is cut silently."
            )
        padding, zeros = [self.token_id] * num_added, [0] * num_added
        mask = [1] * len(text.ids)
        if self.side == "left":
            ids, mask = [*padding, *text.ids], [*zeros, *mask]
        else:
            ids, mask = [*text.ids, *padding], [*mask, *zeros]
        return EncodedText(ids, mask=mask if self.is_masked else None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """How the model makes scores of cosines."""

    scale: float
    bias: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TowersRecord:
    """What the session of a model with two towers needs besides that of its texts."""

    texts: InputContract
    """How vectors of texts take sequences; hidden states may take them otherwise."""
    frame: TextFrame | None
    images: MediaEncoderRecord | None
    """None: the package was compiled without a processor, for texts alone."""
    scores: Scores | None
    """None: the model's scores are made otherwise."""

    def with_frame(self, seq_lens: tuple[int, ...]) -> tuple[int, ...]:
        """Lengths with the one that vectors of texts are made at."""
        return seq_lens if self.frame is None else tuple(sorted({*seq_lens, self.frame.length}))

    def resized(self, seq_lens: tuple[int, ...], batch_size: int) -> TowersRecord:
        """This record for other lengths or another batch."""
        return replace(self, texts=replace(self.texts, seq_lens=seq_lens, batch_size=batch_size))


class Towers:
    """Runs the two towers of a package.

    Args:
        record: what the package says.
        texts: gives the vectors of texts.
        programs: the graphs for images by name; closed with this.
        folder: the package's, with its processor.
    """

    def __init__(self, record: TowersRecord, texts: EncoderSession, programs: Mapping[str, Program], folder: Path):
        self.record, self._texts = record, texts
        self._images = PackageImages(record.images, programs, folder)

    def close(self) -> None:
        """Release the graphs for images."""
        self._images.close()

    def text_vectors(self, texts: Sequence[EncodedText]) -> np.ndarray:
        """``[n, D]`` of texts. Raises as :meth:`EncoderSession.run`."""
        frame = self.record.frame
        if frame is not None:
            texts = [frame.around(index, text) for index, text in enumerate(texts)]
        return self._texts.run(texts)

    def image_vectors(self, images: Pictures, processor: ProcessorMixin | None = None) -> np.ndarray:
        """``[n, D]`` of images.

        Raises:
            LifecycleError: the package was compiled without a processor.
            CapacityError: an image is too large, too small, or of a size that was not compiled.
            OptionError: something is not an image.
            NumericError: a vector is no number.
        """
        if self._images.encoder is None:
            raise LifecycleError(
                f"{self._images.folder} was compiled for texts alone, without a processor that reads images: compile "
                "with QEFFAutoModel(model, processor=...)."
            )
        batch = images if isinstance(images, Mapping) else self._read(images, processor)
        features = self._images.encoder.encode(batch)
        if features is None or features[0] is None:
            raise OptionError(f"The processor's output has no images, but {', '.join(batch) or 'nothing'}.")
        return features[0]

    def _read(self, images: Picture | Sequence[Picture], processor: ProcessorMixin | None) -> Mapping[str, Any]:
        from QEfficient.processing.processor import process_images

        listed = list(images) if isinstance(images, list | tuple) else [images]
        if not listed:
            raise CapacityError("No image was passed.")
        return process_images(self._images.processor if processor is None else processor, listed)

    def scores(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """``logits_per_image [images, texts]`` of vectors.

        Raises:
            LifecycleError: the model's scores are no scale and bias of cosines.
        """
        scores = self.record.scores
        if scores is None:
            raise LifecycleError(
                "This model's forward does more than scale the cosines of its vectors, so that the package has no "
                "scores: compare the vectors of get_text_features() and get_image_features()."
            )
        return (scores.scale * _unit(images) @ _unit(texts).T + scores.bias).astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
