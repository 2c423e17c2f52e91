"""Texts with images among their tokens, as an encoder takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from QEfficient.contract import DEEPSTACK, FEATURES, INDEX
from QEfficient.errors import OptionError
from QEfficient.generation.media import MediaLayout, MediaPacker, Part, PromptMedia
from QEfficient.generation.media_encoder import MediaEncoderRecord
from QEfficient.generation.media_prompts import Pictured, with_media
from QEfficient.generation.package_images import PackageImages
from QEfficient.generation.programs.program import Program
from QEfficient.generation.sessions.encoder import EncoderSession
from QEfficient.generation.texts import EncodedText, Texts
from QEfficient.generation.two_towers import Pictures

if TYPE_CHECKING:
    from transformers import ProcessorMixin


Asked = Any
"""A processor's output, a text, a list of texts, or chats."""
_POSITIONS = "position_ids"


@dataclass(frozen=True, kw_only=True, slots=True)
class SeeingRecord:
    """What the session of an encoder that sees needs besides that of its texts."""

    layout: MediaLayout
    images: MediaEncoderRecord
    retrieves: bool = False
    """Whether its processor reads queries, and images as documents (ColPali, ColQwen2)."""


def is_ids(inputs: object) -> bool:
    """Whether inputs are token ids, of one sequence or several, which may have no images."""
    if not isinstance(inputs, list | tuple) or not inputs or isinstance(inputs[0], str | Mapping):
        return False
    return not isinstance(inputs[0], list | tuple) or not any(isinstance(each, str | Mapping) for each in inputs[0])


class SeeingSession(EncoderSession):
    """Texts with images. For any number of threads."""

    others = frozenset({FEATURES, DEEPSTACK, INDEX, _POSITIONS, "token_type_ids", "mm_token_type_ids"})

    def with_layout(self, layout: MediaLayout) -> SeeingSession:
        """This session, which packs features by ``layout``."""
        self._packer = MediaPacker(layout)
        return self

    def _check(self, index: int, text: EncodedText) -> None:
        super()._check(index, text)
        if text.media is None and any(token in text.ids for token in self._packer.layout.placeholders.values()):
            raise OptionError(
                f"Text {index} has placeholders for images, and no image: pass what the processor made of both, or "
                "texts with images=..."
            )

    def _pack(self, items: Sequence[EncodedText], length: int) -> dict[str, np.ndarray]:
        inputs = super()._pack(items, length)
        positions = np.where(inputs["attention_mask"] > 0, np.arange(length)[None], -1)
        media = [PromptMedia(np.zeros(len(item.ids), bool)) if item.media is None else item.media for item in items]
        parts = [Part(row, each, 0, len(items[row].ids)) for row, each in enumerate(media)]
        packed = self._packer.rows(parts, positions)
        if _POSITIONS in packed:
            packed[_POSITIONS] = packed[_POSITIONS][1:].clip(min=0)
        if self._program.shapes is not None:
            shape = next(shape for shape in self._program.shapes if shape["input_ids"] == inputs["input_ids"].shape)
            for name in {FEATURES, DEEPSTACK} & packed.keys():
                missing = shape[name][-2] - packed[name].shape[-2]
                packed[name] = np.pad(packed[name], [*[(0, 0)] * (packed[name].ndim - 2), (0, missing), (0, 0)])
        return inputs | packed


class Seeing:
    """Makes encoded texts of prompts with images.

    Args:
        record: what the package says.
        programs: the graphs for images by name; closed with this.
        folder: the package's, with its processor.
    """

    def __init__(self, record: SeeingRecord, programs: Mapping[str, Program], folder: Path):
        self.record, self._images = record, PackageImages(record.images, programs, folder)

    def close(self) -> None:
        """Release the graphs for images."""
        self._images.close()

    def texts(
        self,
        prompts: Asked,
        images: Sequence[Any] | None,
        instruction: str | None = None,
        processor: ProcessorMixin | None = None,
    ) -> list[EncodedText]:
        """Prompts with their images.

        Args:
            prompts: a processor's output, a text, a list of texts, or chats.
            images: of one prompt, or a list of images for each.
            instruction: for texts: the system's message of a chat whose user shows the images and the text.
            processor: of transformers; default: the package's.

        Raises:
            OptionError: images and placeholders differ in number, or something is not an image.
        """
        if isinstance(prompts, Mapping):
            return self._of_batch(prompts)
        pictured = with_media(prompts, [] if images is None and isinstance(prompts, str) else images, None, processor)
        if not isinstance(pictured, Pictured):
            pictured = Pictured(list(prompts), [[] for _ in prompts])
        chats = [self._chat(*each, instruction) for each in zip(pictured.prompts, pictured.images, strict=True)]
        read = zip(chats, pictured.images, strict=True)
        return [text for chat, pictures in read for text in self._read(chat, pictures, processor)]

    def queries(self, texts: Texts) -> list[EncodedText]:
        """Queries as the processor of a retrieval model reads them.

        Raises:
            OptionError: one is no text.
        """
        listed = [texts] if isinstance(texts, str) else texts
        if not isinstance(listed, list | tuple) or not listed or not all(isinstance(text, str) for text in listed):
            raise OptionError("encode_queries() of a model that sees takes a text or a list of texts.")
        batches = (self._images.processor.process_queries(text=[text], return_tensors="pt") for text in listed)
        return [text for batch in batches for text in self._of_batch(batch)]

    def documents(self, images: Pictures) -> list[EncodedText]:
        """Images of documents as the processor of a retrieval model reads them.

        Raises:
            CapacityError: an image is too large, or too small to be seen.
            OptionError: something is not an image.
        """
        from QEfficient.processing.processor import process_images

        listed = list(images) if isinstance(images, list | tuple) else [images]
        batches = (process_images(self._images.processor, [image]) for image in listed)
        return [text for batch in batches for text in self._of_batch(batch)]

    @staticmethod
    def _chat(prompt: Any, pictures: Sequence[Any], instruction: str | None) -> Any:
        if instruction is None:
            return prompt
        if not isinstance(prompt, str):
            raise OptionError("instruction is for texts; a chat has a message of the system already.")
        shown = [{"type": "image"} for _ in pictures] + ([{"type": "text", "text": prompt}] if prompt else [])
        system = {"role": "system", "content": [{"type": "text", "text": instruction}]}
        return [system, {"role": "user", "content": shown}]

    def _read(self, prompt: Any, pictures: Sequence[Any], processor: ProcessorMixin | None) -> list[EncodedText]:
        from QEfficient.processing.processor import process

        return self._of_batch(process(self._images.processor if processor is None else processor, prompt, pictures))

    def _of_batch(self, batch: Mapping[str, Any]) -> list[EncodedText]:
        """The texts of a processor's output, their padding dropped."""
        layout = self.record.layout
        ids = np.atleast_2d(np.asarray(batch["input_ids"]))
        mask = np.ones_like(ids, bool)
        if batch.get("attention_mask") is not None:
            mask = np.atleast_2d(np.asarray(batch["attention_mask"])).astype(bool)
        assert self._images.encoder is not None
        features, deepstack = self._images.encoder.encode(batch) or (None, None)
        is_placeholder = np.isin(ids, list(layout.placeholders.values())) & mask
        rows = features if features is not None else deepstack[0] if deepstack is not None else ()
        if is_placeholder.sum() != len(rows):
            raise OptionError(
                f"The prompts have {int(is_placeholder.sum())} placeholder(s) for images, and the images make "
                f"{len(rows)} row(s) of features: pass all images, and the prompt as the processor made it."
            )
        coordinates = self._images.host.coordinates(batch) if layout.num_positions else None
        ends = np.cumsum(is_placeholder.sum(1))
        texts = []
        for row, keep in enumerate(mask):
            shown = slice(ends[row] - is_placeholder[row].sum(), ends[row])
            media = PromptMedia(
                is_placeholder[row][keep],
                None if features is None else features[shown],
                None if deepstack is None else deepstack[:, shown],
                {
                    name: np.atleast_2d(np.asarray(batch[name]))[row][keep]
                    for name in layout.token_types
                    if name in batch
                },
                None if coordinates is None else coordinates[:, row, keep],
            )
            texts.append(EncodedText(ids[row][keep].tolist(), media=media))
        return texts
