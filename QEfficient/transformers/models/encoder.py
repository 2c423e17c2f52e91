"""The auto class of encoders."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.base.open_package import check_runtime
from QEfficient.contract import MODEL_GRAPH, Specialization
from QEfficient.errors import LifecycleError, OptionError, UnsupportedModel
from QEfficient.generation.late_interaction import LateRecord, max_sim
from QEfficient.generation.media import MediaLayout
from QEfficient.generation.seeing import SeeingRecord
from QEfficient.generation.tasks.sequence_model import EncoderRecord
from QEfficient.generation.two_towers import Scores, TextFrame, TowersRecord
from QEfficient.options import EncoderCompileOptions
from QEfficient.targets import Target
from QEfficient.transformers.models.embedder import AUTO, PoolingChoice, QEFFEmbedder
from QEfficient.transformers.models.image_tower import ImageTower
from QEfficient.transformers.models.late_interaction import read_late_interaction
from QEfficient.transformers.models.media_encoders import sharing_cores
from QEfficient.transformers.models.sequence_plan import MeasuredInputs, SequencePlan, encoder_record

if TYPE_CHECKING:
    import numpy as np
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

    from QEfficient.generation.texts import Texts
    from QEfficient.generation.two_towers import Pictures
    from QEfficient.transformers.lowering.media import MediaTokens
    from QEfficient.transformers.tasks.graph_spec import TaskGraph
    from QEfficient.transformers.tasks.padding_probe import SequenceUse
    from QEfficient.transformers.tasks.sequence_inputs import SequenceContract, SequenceModel


logger = logging.getLogger(__name__)


class QEFFAutoModel(QEFFEmbedder):
    """An encoder: hidden states of texts, or one pooled vector each. Decoder-only models give their hidden states.

    ``generate`` returns ``{"output": array}``, float32 ``[n, hidden]`` if pooled, else ``[n, longest input, hidden]``.
    A model with a tower for texts and one for images (CLIP, SigLIP and others) gives vectors of both in one space, too:
    see :meth:`get_text_features`, :meth:`get_image_features` and :meth:`similarity`. A checkpoint of PyLate gives a
    vector for each token: see :meth:`encode_queries`, :meth:`encode_documents` and :meth:`score_retrieval`.

    Args:
        model: a Hugging Face model, already loaded.
        pooling: "auto" for what the folder's ``modules.json`` says, as sentence-transformers, and hidden states where
            there is none; None (or "none") for hidden states; "mean" (or "avg"), "max", "cls", "last" (or
            "lasttoken"), "weightedmean", "mean_sqrt_len_tokens", or a list of these, whose vectors are put together;
            or a traceable function ``(last_hidden_states, attention_mask) -> tensor``.
        tokenizer: used by :meth:`generate` and put into the package; default: the processor's.
        processor: reads images; put into the package. Without one, a model with two towers is compiled for texts.
    """

    task = "encoder"
    specialization_name = "Embedding"
    load_arguments = ("pooling", "processor")
    processor: ProcessorMixin | None = None
    _late: LateRecord | None = None

    def __init__(
        self,
        model: Any,
        pooling: PoolingChoice = AUTO,
        *,
        tokenizer: Any | None = None,
        processor: ProcessorMixin | None = None,
    ) -> None:
        tokenizer = tokenizer if tokenizer is not None else getattr(processor, "tokenizer", None)
        super().__init__(model, tokenizer=tokenizer)
        self._choose_pooling(pooling)
        self._check_processor(processor)
        self.processor = processor
        self._vector_inputs = MeasuredInputs(self._prepare_vectors)

    @classmethod
    def hf_auto_class(cls) -> Any:
        from QEfficient.transformers.checkpoint.text_encoders import TextEncoders

        return TextEncoders

    @classmethod
    def takes(cls, config: PretrainedConfig, heads: Sequence[str]) -> bool:
        """A model without a head of a task, or with one that only pretraining needs."""
        return not any("For" in head and not head.endswith("ForMaskedLM") for head in heads)

    @classmethod
    def takes_model(cls, model: PreTrainedModel) -> bool:
        return True

    def _read_files(self, folder: Path) -> None:
        from QEfficient.processing.processor import has_processor, open_processor
        from QEfficient.transformers.checkpoint.dense_layers import attach_dense_layers
        from QEfficient.transformers.tasks.two_towers import gives_token_vectors

        if self.pooling is None and attach_dense_layers(self._loaded(), folder):
            self._late = read_late_interaction(folder, self.tokenizer)
            if self._late.filling is not None:
                # The graph writes the padding token where tokens attend to nothing, as PyLate's tokenizer does.
                self.config.get_text_config().pad_token_id = self._late.filling
        elif not self._has_two_towers:
            self._read_pipeline(folder)
        needs_images = self._has_two_towers or gives_token_vectors(self._loaded())
        if self.processor is None and needs_images and has_processor(folder):
            try:
                self.processor = open_processor(folder)
            except LifecycleError as error:
                logger.warning("Loaded for texts alone: %s", error)

    def _check_processor(self, processor: ProcessorMixin | None) -> None:
        from QEfficient.transformers.tasks.seeing_encoder import reads_images

        if processor is not None and not self._has_two_towers and not reads_images(self._loaded()):
            raise OptionError(f"{self.model_name} reads texts alone: leave processor out, and pass tokenizer=...")

    # What the graphs are.

    @property
    def _has_two_towers(self) -> bool:
        return self._reader is not self._loaded()

    @cached_property
    def _image_tower(self) -> ImageTower | None:
        if self.processor is None:
            return None
        has_texts = not self._has_two_towers and not self._retrieves
        return ImageTower(self._loaded(), self.processor, has_texts=has_texts)

    @property
    def _retrieves(self) -> bool:
        """Whether the processor reads queries, and images as documents."""
        return all(hasattr(self.processor, f"process_{kind}") for kind in ("queries", "images"))

    @cached_property
    def _media_tokens(self) -> MediaTokens | None:
        """What stands for images among the tokens of a text; None for a model that reads none there."""
        from QEfficient.transformers.tasks.media_tokens import media_tokens
        from QEfficient.transformers.tasks.seeing_encoder import is_head

        if self._image_tower is None or self._has_two_towers:
            return None
        model, sample = self._loaded(), self._image_tower.sample([(448, 448)])
        tokens = media_tokens(model.base_model, {"image": self._image_tower.encoder}, sample)
        if not is_head(model):
            return tokens
        if tokens.num_deepstack or not tokens.has_pooled:
            raise UnsupportedModel(f"{self.model_name} hands features of images to layers of the model under it.")
        return replace(tokens, num_positions=0)  # its forward gives the model embeddings, which have no coordinates

    def _prepare(self, model: PreTrainedModel, use: SequenceUse) -> tuple[SequenceModel, SequenceContract]:
        from QEfficient.transformers.tasks.encoder import prepare_encoder

        types = () if self._media_tokens is None else self._media_tokens.token_types
        return prepare_encoder(model, self.pooling, use, types)

    @staticmethod
    def _prepare_vectors(model: PreTrainedModel, use: SequenceUse) -> tuple[SequenceModel, SequenceContract]:
        from QEfficient.transformers.tasks.encoder import prepare_text_vectors

        return prepare_text_vectors(model, use)

    def _parse(self, passed: Mapping[str, Any]) -> tuple[EncoderCompileOptions, Target]:
        """The length of texts whose vectors are made at one is compiled too, and that of queries."""
        options, target = super()._parse(passed)
        self._check_lens(options)  # before anything is measured at these lengths
        frame, late = self._frame(options), self._late
        lengths = {each for each in (frame and frame.length, late and late.query_len) if each}
        if lengths - {*options.seq_lens}:
            options = replace(options, seq_len=tuple(sorted({*options.seq_lens, *lengths})))
        return options, target

    def _vector_contract(self, options: EncoderCompileOptions) -> SequenceContract:
        return self._vector_inputs.contract(self._reader, options.seq_lens[-1], self.tokenizer)

    def _frame(self, options: EncoderCompileOptions) -> TextFrame | None:
        """The length that all texts get, where padding changes their vectors: it did when the model was trained."""
        tokenizer, longest = self.tokenizer, self.max_lens().get("seq_len")
        pad_token_id = getattr(tokenizer, "pad_token_id", None)
        if not self._has_two_towers or longest is None or pad_token_id is None:
            return None
        if self._vector_contract(options).padding.side is not None:
            return None
        return TextFrame(
            length=min(longest, getattr(tokenizer, "model_max_length", longest)),
            token_id=pad_token_id,
            side=getattr(tokenizer, "padding_side", "right"),
            is_masked="attention_mask" in getattr(tokenizer, "model_input_names", ()),
        )

    def _plan(self, options: EncoderCompileOptions, target: Target) -> SequencePlan:
        images = () if self._image_tower is None else self._image_tower.described()
        return super()._plan(options, target).replaced(pooling=self._pooling_key(), images=images)

    def _graphs(self, plan: SequencePlan) -> dict[str, TaskGraph]:
        from QEfficient.transformers.tasks.encoder import encoder_graph
        from QEfficient.transformers.tasks.seeing_encoder import seeing_graph

        contract = self._text_contract(plan)
        module = self._inputs.module(contract)
        if self._media_tokens is None:
            texts = {MODEL_GRAPH: encoder_graph(module, contract, self.pooling is not None, plan.graph_lens)}
        else:
            axes = {0: "batch_size"} if self.pooling is not None else {0: "batch_size", 1: "seq_len"}
            texts = {MODEL_GRAPH: seeing_graph(module, self._media_tokens, axes, plan.graph_lens)}
        return texts if self._image_tower is None else {**texts, **self._image_tower.graphs()}

    def _specializations(
        self, plan: SequencePlan, options: EncoderCompileOptions, target: Target
    ) -> dict[str, tuple[Specialization, ...]]:
        texts = super()._specializations(plan, options, target)
        tower = self._image_tower
        if self._media_tokens is not None:
            rows = {"vision_batch_size": options.batch_size}
            texts = {
                MODEL_GRAPH: tuple(
                    replace(each, symbols={**each.symbols, **rows, "vision_size": each.symbols["seq_len"]})
                    for each in texts[MODEL_GRAPH]
                )
            }
        return texts if tower is None else {**texts, **tower.specializations(target.has_static_shapes)}

    def _graph_options(self, name: str, options: EncoderCompileOptions, target: Target) -> EncoderCompileOptions:
        """All graphs are on a card at once, so that they share its cores: half of them are for images."""
        num_parts = 0 if self._image_tower is None else len(self._image_tower.encoder.parts)
        return sharing_cores(options, target, num_parts, is_encoder=name != MODEL_GRAPH, share=2)

    def _session(self, plan: SequencePlan, options: EncoderCompileOptions, target: Target) -> EncoderRecord:
        record = replace(encoder_record(plan, options, self.config), late=self._late, embedding=self._embedding)
        if not self._has_two_towers:
            return replace(record, seeing=self._seeing_record(target))
        vectors = encoder_record(plan.replaced(contract=self._vector_contract(options)), options, self.config)
        tower = self._image_tower
        towers = TowersRecord(
            texts=vectors.inputs,
            frame=self._frame(options),
            images=None if tower is None else tower.record(target.has_static_shapes),
            scores=None if tower is None else self._scores(tower),
        )
        return replace(record, towers=towers)

    def _seeing_record(self, target: Target) -> SeeingRecord | None:
        tokens, tower = self._media_tokens, self._image_tower
        if tokens is None or tower is None:
            return None
        layout = MediaLayout(
            placeholders=dict(tokens.placeholders),
            width=tokens.width,
            has_pooled=tokens.has_pooled,
            num_deepstack=tokens.num_deepstack,
            token_types=tokens.token_types,
            num_positions=tokens.num_positions,
        )
        return SeeingRecord(layout=layout, images=tower.record(target.has_static_shapes), retrieves=self._retrieves)

    def _scores(self, tower: ImageTower) -> Scores | None:
        from QEfficient.transformers.checkpoint.source import weight_value
        from QEfficient.transformers.tasks.similarity import measure_similarity

        images = tower.sample([(64, 48), (48, 64)])
        line = measure_similarity(self._loaded(), images, lambda parameter: weight_value(self._weights(), parameter))
        return None if line is None else Scores(scale=line[0], bias=line[1])

    def write_side_files(self, folder: Path) -> None:
        super().write_side_files(folder)
        if self._image_tower is not None:
            from QEfficient.processing.processor import FOLDER

            self._image_tower.write_files(folder / FOLDER, self._weights())

    # Running.

    def generate(
        self,
        inputs: Any,
        device_ids: Sequence[int] | None = None,
        runtime_ai100: bool = True,
        *,
        tokenizer: Any | None = None,
        images: Sequence[Any] | None = None,
        instruction: str | None = None,
        write_io: bool = False,
    ) -> dict[str, Any]:
        """Run texts through the compiled package; of a model that reads images among texts, with their images.

        Args:
            inputs: text, a list of texts or of pairs of texts, lists of token ids, or a tokenizer's output; with
                images also chats that name them, or a processor's output.
            device_ids: the cards to run on; others than last time open the package again. No effect on ``cpu``.
            runtime_ai100: upstream's switch; the package knows where it runs, so only True is accepted.
            tokenizer: default: the model's.
            images: of one text, or a list of images for each: paths, bytes, arrays, or images of Pillow.
            instruction: the system's message of a chat whose user shows the images and the text.
            write_io: upstream's switch to write buffers to files, which models that generate have; only False.

        Returns:
            The output by its name, a float32 array with a row for each text: see the class.

        Raises:
            LifecycleError: nothing was compiled yet.
            CapacityError: a text is empty or longer than the longest compiled ``seq_len``.
            OptionError: images and placeholders differ in number, or the model was compiled for texts alone.
        """
        check_runtime(runtime_ai100)
        if write_io:
            raise OptionError("write_io=True: QAICInferenceSession(qpc_path).run() gets and gives the buffers.")
        outputs: dict[str, Any] = self._open(device_ids).generate(
            inputs,
            tokenizer=self._text_tokenizer(tokenizer),
            images=images,
            instruction=instruction,
            processor=self.processor,
        )
        return outputs

    def get_text_features(
        self,
        inputs: Texts,
        device_ids: Sequence[int] | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> np.ndarray:
        """Vectors of texts in the space that images are in too, as transformers' ``get_text_features`` gives them.

        Args:
            inputs: as of :meth:`generate`. A model whose vectors depend on padding gets texts as long as it takes, as
                its processor makes them with ``padding="max_length"``.
            device_ids: as of :meth:`generate`.
            tokenizer: default: the model's.

        Returns:
            float32 ``[n, D]``, not normalised.

        Raises:
            LifecycleError: nothing was compiled yet.
            CapacityError: a text is empty or too long.
            OptionError: the model does not have two towers.
        """
        compiled = self._open(device_ids)
        vectors: np.ndarray = compiled.get_text_features(inputs, tokenizer=self._text_tokenizer(tokenizer))
        return vectors

    def get_image_features(
        self, images: Pictures, device_ids: Sequence[int] | None = None, *, processor: ProcessorMixin | None = None
    ) -> np.ndarray:
        """Vectors of images in the space that texts are in too, as transformers' ``get_image_features`` gives them.

        Args:
            images: a path, the bytes of a file, an array ``[height, width, 3]`` of uint8 or an image of Pillow; a list
                of these; or a processor's output.
            device_ids: as of :meth:`generate`.
            processor: default: the model's.

        Returns:
            float32 ``[n, D]``, not normalised.

        Raises:
            LifecycleError: nothing was compiled yet, or not for images.
            CapacityError: an image is too large, too small, or of a size that was not compiled.
            OptionError: something is not an image, or the model does not have two towers.
        """
        compiled = self._open(device_ids)
        vectors: np.ndarray = compiled.get_image_features(images, processor=processor or self.processor)
        return vectors

    def similarity(self, texts: Texts, images: Pictures, device_ids: Sequence[int] | None = None) -> np.ndarray:
        """How well images and texts fit, as ``logits_per_image`` of the model's forward.

        Args:
            texts: as of :meth:`get_text_features`.
            images: as of :meth:`get_image_features`.
            device_ids: as of :meth:`generate`.

        Returns:
            float32 ``[images, texts]``: of CLIP, a softmax over the texts gives probabilities; of SigLIP, a sigmoid.
            Of two lists of vectors as :meth:`encode` returns them: how alike they are, ``[n, m]``, by the function that
            the checkpoint's folder names, else the cosine.

        Raises:
            LifecycleError: nothing was compiled yet, or the model's scores are no scale and bias of cosines.
        """
        compiled = self._open(device_ids)
        scores: np.ndarray = compiled.similarity(
            texts, images, tokenizer=self._text_tokenizer(None), processor=self.processor
        )
        return scores

    def encode_queries(
        self,
        queries: Texts,
        device_ids: Sequence[int] | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> list[np.ndarray]:
        """Vectors of the tokens of queries, as the model was trained to read them: with its prefix, filled up.

        Args:
            queries: as of :meth:`generate`.
            device_ids: as of :meth:`generate`.
            tokenizer: default: the model's.

        Returns:
            float32 ``[tokens, D]`` for each, of length 1 each.

        Raises:
            LifecycleError: nothing was compiled yet.
            CapacityError: a query is empty or too long.
            OptionError: the checkpoint is none of late interaction.
        """
        compiled = self._open(device_ids)
        vectors: list[np.ndarray] = compiled.encode_queries(queries, tokenizer=self._text_tokenizer(tokenizer))
        return vectors

    def encode_documents(
        self,
        documents: Texts,
        device_ids: Sequence[int] | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> list[np.ndarray]:
        """Vectors of the tokens of documents, without those that do not count, such as punctuation. Arguments, result
        and errors as of :meth:`encode_queries`."""
        compiled = self._open(device_ids)
        vectors: list[np.ndarray] = compiled.encode_documents(documents, tokenizer=self._text_tokenizer(tokenizer))
        return vectors

    @staticmethod
    def score_retrieval(queries: Sequence[np.ndarray], documents: Sequence[np.ndarray]) -> np.ndarray:
        """MaxSim scores, float32 ``[queries, documents]``: for each vector of a query its greatest product with one of
        the document, summed.

        Args:
            queries: of :meth:`encode_queries`.
            documents: of :meth:`encode_documents`.

        Raises:
            OptionError: there is none, or they differ in width.
        """
        return max_sim(queries, documents)
