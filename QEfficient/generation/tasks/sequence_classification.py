"""Runs the packages of classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from QEfficient.errors import OptionError
from QEfficient.generation.sessions.encoder import InputContract
from QEfficient.generation.tasks.encoder import CompiledSequenceModel, EncoderRecord
from QEfficient.options import EncoderCompileOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierRecord:
    """What the session of a classifier needs to know."""

    encoder: EncoderRecord
    labels: tuple[str, ...]
    """What the logits stand for, in their order."""
    problem_type: str | None
    """As in the checkpoint's config."""


class CompiledSequenceClassifier(CompiledSequenceModel[ClassifierRecord]):
    """A classifier that turns sequences into logits."""

    task, output = "sequence_classification", "logits"
    record_class = ClassifierRecord
    options_class = EncoderCompileOptions

    def _input_contract(self) -> InputContract:
        return self.record.encoder.inputs

    def resized(self, record: ClassifierRecord, **sizes: Any) -> ClassifierRecord:
        seq_len, batch_size = sizes.pop("seq_len", None), sizes.pop("batch_size", None)
        super().resized(record, **sizes)
        return replace(record, encoder=record.encoder.resized(seq_len, batch_size))

    @property
    def labels(self) -> list[str]:
        """What the logits stand for, in their order."""
        return list(self.record.labels)

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """Logits ``[n, num_labels]`` as what the model was trained for: probabilities, or a regression as it is."""
        kind = self.record.problem_type
        if kind == "regression":
            return logits
        if kind == "multi_label_classification" or logits.shape[1] == 1:
            return 1 / (1 + np.exp(-logits))
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)

    def rank(self, query: str, documents: Sequence[str], *, tokenizer: Any | None = None) -> list[tuple[int, float]]:
        """Indices and scores of ``documents``, the best first.

        Raises:
            OptionError: the model has several labels.
        """
        if len(self.labels) != 1:
            raise OptionError(f"Only a model of one label ranks; this one has {', '.join(self.labels)}.")
        logits = self.generate([(query, document) for document in documents], tokenizer=tokenizer)["logits"]
        scores = 1 / (1 + np.exp(-logits[:, 0]))
        return [(int(index), float(scores[index])) for index in np.argsort(-logits[:, 0], kind="stable")]

    def describe(self, prompts: Sequence[str], tokenizer: Any | None = None) -> tuple[list[dict[str, Any]], str]:
        logits = self.generate(list(prompts), tokenizer=tokenizer)["logits"]
        scores = [dict(zip(self.labels, row.tolist(), strict=True)) for row in self.scores(logits)]
        rows = [
            {"prompt": prompt, "label": max(each, key=each.__getitem__), "scores": each, "logits": row.tolist()}
            for prompt, each, row in zip(prompts, scores, logits, strict=True)
        ]
        lines = []
        for prompt, each in zip(prompts, scores, strict=True):
            best = sorted(each.items(), key=lambda item: -item[1])
            lines.append(f"> {prompt}\n" + "\n".join(f"{score:.4f} {label}" for label, score in best[:5]))
        return rows, "\n".join(lines)
