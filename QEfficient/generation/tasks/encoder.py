"""Runs the packages of encoders."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from QEfficient.contract import MODEL_GRAPH, TEXT_VECTORS, GraphRecord
from QEfficient.errors import OptionError
from QEfficient.generation.embedding import (
    EmbeddingRecord,
    are_vectors,
    as_asked,
    finished,
    similarity,
)
from QEfficient.generation.late_interaction import LateRecord
from QEfficient.generation.programs.program import Program
from QEfficient.generation.seeing import Seeing, SeeingSession, is_ids
from QEfficient.generation.sessions.encoder import EncoderSession, InputContract
from QEfficient.generation.tasks.sequence_model import CompiledSequenceModel, EncoderRecord, shown
from QEfficient.generation.text_calls import EncodesTexts
from QEfficient.generation.text_options import EncodeOptions
from QEfficient.generation.texts import EncodedText, Texts, encode_texts
from QEfficient.generation.two_towers import Pictures, Towers
from QEfficient.option_types import EncodeArgs
from QEfficient.options import EncoderCompileOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin


class CompiledEncoder(CompiledSequenceModel[EncoderRecord], EncodesTexts):
    """An encoder that turns sequences into hidden states or vectors; of a model with two towers, images too."""

    task, output = "encoder", "output"
    record_class = EncoderRecord
    options_class = EncoderCompileOptions
    takes_images = True

    def _has_known_graphs(self) -> bool:
        return MODEL_GRAPH in self.body.graphs

    @property
    def _result_graph(self) -> GraphRecord:
        return self.body.graphs[MODEL_GRAPH]

    def _input_contract(self) -> InputContract:
        return self.record.inputs

    def _load(self) -> None:
        towers, seeing, images = self.record.towers, self.record.seeing, self.record.images
        parts = () if images is None else images.parts
        if {MODEL_GRAPH, *(part.graph for part in parts)} != self.body.graphs.keys():
            raise self._not_ours(f"its graphs are {', '.join(self.body.graphs)}")
        with ExitStack() as opened:
            programs = {part.graph: opened.enter_context(closing(self.open_program(part.graph))) for part in parts}
            super()._load()
            opened.push(lambda *exception: self.session.close())
            self._towers = None
            if towers is not None:
                texts = self.session.beside(towers.texts, TEXT_VECTORS)
                self._towers = Towers(towers, texts, programs, self.path)
            self._seeing = None if seeing is None else Seeing(seeing, programs, self.path)
            opened.pop_all()  # close() closes them

    def _session(self, program: Program, fixed_len: int | None) -> EncoderSession:
        seeing = self.record.seeing
        if seeing is None:
            return super()._session(program, fixed_len)
        return SeeingSession(program, self._inputs, self.output, fixed_len).with_layout(seeing.layout)

    def close(self) -> None:
        super().close()
        for each in (self._towers, self._seeing):
            if each is not None:
                each.close()

    def generate(
        self,
        inputs: Texts,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        images: Sequence[Any] | None = None,
        instruction: str | None = None,
        processor: ProcessorMixin | None = None,
    ) -> dict[str, np.ndarray]:
        """Run sequences, as :meth:`CompiledSequenceModel.generate`; of an encoder that sees, with their images.

        Args:
            inputs: see there; of an encoder that sees, also chats that name their images, or a processor's output.
            tokenizer: see there.
            images: of one text, or a list of images for each.
            instruction: the system's message of a chat whose user shows the images and the text.
            processor: of transformers; default: the package's.

        Raises:
            OptionError: the model does not read images, or something is none.
        """
        if self._seeing is None:
            if images is not None or instruction is not None:
                raise OptionError(
                    f"{self.body.architecture} was compiled for texts alone: images and instruction are for models "
                    "that read images among texts, compiled with processor=..."
                )
            return super().generate(inputs, tokenizer=tokenizer)
        if images is None and instruction is None and is_ids(inputs):
            return super().generate(inputs, tokenizer=tokenizer)
        return {self.output: self.session.run(self._seeing.texts(inputs, images, instruction, processor))}

    def encode(
        self, texts: Texts, *, tokenizer: PreTrainedTokenizerBase | None = None, **options: Unpack[EncodeArgs]
    ) -> np.ndarray:
        chosen = EncodeOptions.parse(options)
        is_single = isinstance(texts, str)
        if not self._is_pooled:
            raise OptionError(
                f"{self.body.architecture} gives hidden states: load it with pooling='mean' or another pooling to get "
                "one vector per text."
            )
        vectors = finished(self._run_texts([texts] if is_single else texts, tokenizer, chosen), chosen)
        return as_asked(vectors[0] if is_single else vectors, chosen.convert_to_tensor)

    @property
    def _is_pooled(self) -> bool:
        return len(self._result_graph.outputs[self.output].shape) == 2

    def tabulate(
        self, texts: Sequence[Any], tokenizer: PreTrainedTokenizerBase | None = None
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        vectors = self.encode(texts, tokenizer=tokenizer)
        return vectors, [{"embedding": row.tolist()} for row in vectors]

    def _embedding(self) -> EmbeddingRecord:
        return self.record.embedding or EmbeddingRecord()

    @property
    def _two_towers(self) -> Towers:
        """
        Raises:
            OptionError: the model has one tower.
        """
        if self._towers is None:
            raise OptionError(
                f"{self.body.architecture} reads texts alone: only a model with two towers (CLIP, SigLIP and others), "
                "loaded with its processor, gives vectors of texts and images in one space."
            )
        return self._towers

    def get_text_features(self, inputs: Texts, *, tokenizer: PreTrainedTokenizerBase | None = None) -> np.ndarray:
        """Vectors ``[n, D]`` of texts, float32, as transformers' ``get_text_features`` gives them.

        Args:
            inputs: as of :meth:`generate`. Texts get the length that the model's vectors are made at.
            tokenizer: as of :meth:`generate`.

        Raises:
            CapacityError: a text is empty or too long.
            OptionError: the model has one tower.
        """
        towers = self._two_towers
        takes_types = self._inputs.token_type_ids != "none"
        return towers.text_vectors(encode_texts(inputs, lambda: self.tokenizer(tokenizer), takes_types))

    def get_image_features(self, images: Pictures, *, processor: ProcessorMixin | None = None) -> np.ndarray:
        """Vectors ``[n, D]`` of images, float32, as transformers' ``get_image_features`` gives them.

        Args:
            images: a path, the bytes of a file, an array or an image of Pillow; a list of these; or a processor's
                output.
            processor: of transformers; default: the package's.

        Raises:
            CapacityError: an image is too large, too small, or of a size that was not compiled.
            LifecycleError: the package was compiled without a processor.
            OptionError: something is not an image, or the model has one tower.
        """
        return self._two_towers.image_vectors(images, processor)

    def similarity(
        self,
        texts: Texts,
        images: Pictures,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        processor: ProcessorMixin | None = None,
    ) -> np.ndarray:
        """How well images and texts fit: ``logits_per_image [images, texts]`` of the model's forward, float32.

        Of two lists of vectors as :meth:`encode` returns them: how alike they are, ``[n, m]``, by the function that
        the checkpoint's folder names, else the cosine.

        Args:
            texts: as of :meth:`get_text_features`.
            images: as of :meth:`get_image_features`.
            tokenizer: see there.
            processor: see there.

        Raises:
            LifecycleError: the model makes its scores otherwise than by a scale and a bias of cosines.
        """
        if are_vectors(texts):
            return similarity(texts, images, self._embedding().similarity)
        vectors = self.get_image_features(images, processor=processor)
        return self._two_towers.scores(vectors, self.get_text_features(texts, tokenizer=tokenizer))

    @property
    def _late(self) -> LateRecord:
        if self.record.late is None:
            raise OptionError(
                f"{self.body.architecture} was not loaded from a checkpoint of late interaction, which has layers "
                "after the model in its modules.json: generate() gives its states or pooled vectors."
            )
        return self.record.late

    def _tokens(self, texts: Texts, tokenizer: PreTrainedTokenizerBase | None) -> list[EncodedText]:
        return encode_texts(texts, lambda: self.tokenizer(tokenizer), takes_token_type_ids=False)

    def encode_queries(self, queries: Texts, *, tokenizer: PreTrainedTokenizerBase | None = None) -> list[np.ndarray]:
        """Vectors ``[tokens, D]`` of each query, float32, of length 1.

        Args:
            queries: as of :meth:`generate`.
            tokenizer: as of :meth:`generate`.

        Raises:
            CapacityError: a query is empty or too long.
            OptionError: the package is none of late interaction.
        """
        if self._seeing is not None and self._seeing.record.retrieves:
            return self.session.run_each(self._seeing.queries(queries))
        late = self._late
        texts = [late.query(index, text) for index, text in enumerate(self._tokens(queries, tokenizer))]
        return self.session.run_each(texts)

    def encode_documents(
        self, documents: Texts, *, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> list[np.ndarray]:
        """Vectors of each document, a text or of ColPali and its kin an image, without those that do not count. As
        :meth:`encode_queries`."""
        if self._seeing is not None and self._seeing.record.retrieves:
            return self.session.run_each(self._seeing.documents(documents))
        late = self._late
        texts = [late.document(text) for text in self._tokens(documents, tokenizer)]
        return [late.counted(*pair) for pair in zip(texts, self.session.run_each(texts), strict=True)]

    def resized(
        self,
        record: EncoderRecord,
        *,
        seq_len: int | Sequence[int] | None = None,
        batch_size: int | None = None,
        **sizes: object,
    ) -> EncoderRecord:
        super().resized(record, **sizes)
        return record.resized(seq_len, batch_size)

    def describe(
        self,
        prompts: Sequence[Any],
        tokenizer: PreTrainedTokenizerBase | None = None,
        images: Sequence[str] = (),
    ) -> tuple[list[dict[str, Any]], str]:
        """As of :class:`CompiledModel`; of images, an entry for each, with its scores."""
        if images:
            return self._describe_scores(prompts, images, tokenizer)
        texts: Any = list(prompts)
        outputs = (
            self.encode(texts, tokenizer=tokenizer)
            if self._is_pooled
            else self.generate(texts, tokenizer=tokenizer)["output"]
        )
        rows = [{"prompt": prompt, "output": row.tolist()} for prompt, row in zip(prompts, outputs, strict=True)]
        lines = []
        for prompt, row in zip(prompts, outputs, strict=True):
            first = " ".join(f"{value:.4f}" for value in row.reshape(-1)[:6])
            lines.append(f"> {shown(prompt)}\n{list(row.shape)} {first} ...")
        return rows, "\n".join(lines)

    def _describe_scores(
        self, prompts: Sequence[str], images: Sequence[str], tokenizer: PreTrainedTokenizerBase | None
    ) -> tuple[list[dict[str, Any]], str]:
        scores = self.similarity(list(prompts), list(images), tokenizer=tokenizer)
        each = [dict(zip(prompts, row.tolist(), strict=True)) for row in scores]
        rows = [{"image": image, "scores": fits} for image, fits in zip(images, each, strict=True)]
        lines = []
        for image, fits in zip(images, each, strict=True):
            best = sorted(fits.items(), key=lambda item: -item[1])
            lines.append(f"> {image}\n" + "\n".join(f"{score:.4f} {prompt}" for prompt, score in best))
        return rows, "\n".join(lines)
