"""Runs the packages of classifiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np

from QEfficient.errors import OptionError
from QEfficient.generation.embedding import EmbeddingRecord, as_asked
from QEfficient.generation.sessions.encoder import InputContract
from QEfficient.generation.tasks.sequence_model import CompiledSequenceModel, EncoderRecord, shown
from QEfficient.generation.text_calls import Ranking, ScoresTexts
from QEfficient.generation.text_options import PredictOptions, RankOptions
from QEfficient.generation.texts import Texts, is_pair
from QEfficient.option_types import PredictArgs, RankArgs
from QEfficient.options import EncoderCompileOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def _listed(documents: object) -> Sequence[object]:
    return documents if isinstance(documents, list | tuple) else (None,)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits))


def _softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def _softplus(logits: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, logits)


Activation = Literal["Identity", "Sigmoid", "Softmax", "Tanh", "ReLU", "Softplus", "LogSigmoid"]
"""A function from logits to scores, by the name of its class in ``torch.nn``; none puts documents in another order."""
_ACTIVATIONS: dict[Activation, Callable[[np.ndarray], np.ndarray]] = {
    "Identity": np.asarray,
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "Tanh": np.tanh,
    "ReLU": lambda logits: np.maximum(logits, 0),
    "Softplus": _softplus,
    "LogSigmoid": lambda logits: -_softplus(-logits),
}

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierRecord:
    """The values that the session of a classifier needs."""

    encoder: EncoderRecord
    labels: tuple[str, ...]
    """The label of each logit, in order."""
    problem_type: ProblemType | None
    """As in the checkpoint's config."""
    activation: Activation | None = None
    """What makes scores of logits; None: the problem type decides."""


class CompiledSequenceClassifier(CompiledSequenceModel[ClassifierRecord], ScoresTexts):
    """A classifier that turns sequences into logits."""

    task, output = "sequence_classification", "logits"
    record_class = ClassifierRecord
    options_class = EncoderCompileOptions

    def _input_contract(self) -> InputContract:
        self._check_width("logits", len(self.record.labels), "labels")
        return self.record.encoder.inputs

    def resized(
        self,
        record: ClassifierRecord,
        *,
        seq_len: int | Sequence[int] | None = None,
        batch_size: int | None = None,
        **sizes: object,
    ) -> ClassifierRecord:
        super().resized(record, **sizes)
        return replace(record, encoder=record.encoder.resized(seq_len, batch_size))

    @property
    def labels(self) -> list[str]:
        return list(self.record.labels)

    def scores(self, logits: np.ndarray) -> np.ndarray:
        size = len(self.labels)
        if not isinstance(logits, np.ndarray) or logits.shape[1:] != (size,) or logits.dtype.kind != "f":
            shape = f"{logits.dtype} {list(logits.shape)}" if isinstance(logits, np.ndarray) else type(logits).__name__
            raise OptionError(f"logits must be an array of floats [n, {size}], got {shape}.")
        return _ACTIVATIONS[self.record.activation or self._usual_activation()](logits)

    def _usual_activation(self) -> Activation:
        kind = self.record.problem_type
        if kind == "regression":
            return "Identity"
        return "Sigmoid" if kind == "multi_label_classification" or len(self.labels) == 1 else "Softmax"

    def _embedding(self) -> EmbeddingRecord:
        return self.record.encoder.embedding or EmbeddingRecord()

    def predict(
        self, pairs: Texts, *, tokenizer: PreTrainedTokenizerBase | None = None, **options: Unpack[PredictArgs]
    ) -> np.ndarray:
        chosen = PredictOptions.parse(options)
        is_single = isinstance(pairs, str) or (isinstance(pairs, tuple) and is_pair(pairs))
        scores = self._cross_encoded(self._run_texts([pairs] if is_single else pairs, tokenizer, chosen))
        if chosen.apply_softmax and len(self.labels) > 1:
            scores = _softmax(scores)
        scores = scores[:, 0] if len(self.labels) == 1 else scores
        return as_asked(scores[0] if is_single else scores, chosen.convert_to_tensor)

    def _cross_encoded(self, logits: np.ndarray) -> np.ndarray:
        """Scores as a CrossEncoder makes them."""
        usual: Activation = "Sigmoid" if len(self.labels) == 1 else "Identity"
        return _ACTIVATIONS[self.record.activation or usual](logits)

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **options: Unpack[RankArgs],
    ) -> Ranking:
        chosen = RankOptions.parse(options)
        if not isinstance(query, str) or not all(isinstance(document, str) for document in _listed(documents)):
            raise OptionError("rank() takes a text and a list of texts.")
        if len(self.labels) != 1:
            raise OptionError(f"Only a model of one label ranks; this one has {', '.join(self.labels)}.")
        logits = self._run_texts([(query, document) for document in documents], tokenizer, chosen)
        scores = self._cross_encoded(logits)[:, 0]
        best = [int(index) for index in np.argsort(-logits[:, 0], kind="stable")[: chosen.top_k]]
        if chosen.return_documents:
            return [(index, float(scores[index]), documents[index]) for index in best]
        return [(index, float(scores[index])) for index in best]

    def describe(
        self, prompts: Sequence[Any], tokenizer: PreTrainedTokenizerBase | None = None
    ) -> tuple[list[dict[str, Any]], str]:
        logits = self._run_texts(prompts, tokenizer, PredictOptions())
        scores = self._labelled(logits)
        rows = [
            {"prompt": prompt, "label": max(each, key=each.__getitem__), "scores": each, "logits": row.tolist()}
            for prompt, each, row in zip(prompts, scores, logits, strict=True)
        ]
        lines = []
        for prompt, each in zip(prompts, scores, strict=True):
            best = sorted(each.items(), key=lambda item: -item[1])
            lines.append(f"> {shown(prompt)}\n" + "\n".join(f"{score:.4f} {label}" for label, score in best[:5]))
        return rows, "\n".join(lines)

    def tabulate(
        self, texts: Sequence[Any], tokenizer: PreTrainedTokenizerBase | None = None
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        logits = self._run_texts(texts, tokenizer, PredictOptions())
        if len(self.labels) == 1:
            scores = self.scores(logits)[:, 0]
            return scores, [{"score": score} for score in scores.tolist()]
        labelled = self._labelled(logits)
        return self.scores(logits), [{"label": max(each, key=each.__getitem__), "scores": each} for each in labelled]

    def _labelled(self, logits: np.ndarray) -> list[dict[str, float]]:
        """The score of each label, for each text."""
        return [dict(zip(self.labels, row.tolist(), strict=True)) for row in self.scores(logits)]
