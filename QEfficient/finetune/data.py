"""The data of a run, read and tokenized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from QEfficient.errors import OptionError
from QEfficient.finetune.classification import LabelledText, label_names, labelled_texts
from QEfficient.finetune.examples import Example, examples
from QEfficient.finetune.processes import num_processes
from QEfficient.finetune.rows import Row, read_rows
from QEfficient.finetune.settings import FinetuneOptions
from QEfficient.store.digests import digest

if TYPE_CHECKING:
    from datasets import Dataset

    from QEfficient.finetune.base import Base

Examples = Sequence[Example] | Sequence[LabelledText]


@dataclass(frozen=True)
class Data:
    """Examples to train on and, if there are any, to validate with.

    Attributes:
        train: In their order.
        validation: Cut to ``max_eval_step``.
        labels: Names of the labels, in classification.
    """

    train: Examples
    validation: Examples
    labels: tuple[str, ...] = ()

    @classmethod
    def read(cls, options: FinetuneOptions, base: Base) -> Data:
        """
        Raises:
            DatasetError: the data cannot be used; names file and line.
            OptionError: ``validation_split`` leaves nothing to train on.
        """
        rows, set_aside = _split(options)
        labels: tuple[str, ...] = ()
        if options.task_mode == "seq_classification":
            labels = base.labels or label_names(rows, options)

        def made(rows: Sequence[Row]) -> Examples:
            if not rows:
                return []
            if labels:
                return labelled_texts(rows, options, base.tokenizer, labels)
            return examples(rows, options, base.tokenizer)

        validation = made(set_aside)
        if options.max_eval_step:
            validation = validation[: options.max_eval_step * options.val_batch_size * num_processes()]
        return cls(made(rows), validation, labels)

    @property
    def sequences(self) -> list[list[int]]:
        """Token ids of each example."""
        return [example.input_ids for example in (*self.train, *self.validation)]

    @property
    def digest(self) -> str:
        """Of what is trained on."""
        return digest([[example.input_ids, example.labels] for example in self.train])


def _split(options: FinetuneOptions) -> tuple[list[Row], list[Row]]:
    rows = read_rows(str(options.dataset))
    if options.eval_dataset is not None:
        return rows, read_rows(options.eval_dataset, "validation")
    if not options.validation_split:
        return rows, []
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(options.seed)).tolist()
    count = max(1, round(len(rows) * options.validation_split))
    if count >= len(rows):
        raise OptionError(f"validation_split={options.validation_split} leaves none of {len(rows)} rows.")
    return [rows[index] for index in sorted(order[count:])], [rows[index] for index in sorted(order[:count])]


def as_dataset(made: Examples) -> Dataset:
    """The examples, tokenized and labelled, in the columns that the Trainer takes as they are."""
    from datasets import Dataset

    return Dataset.from_dict(
        {"input_ids": [example.input_ids for example in made], "labels": [example.labels for example in made]}
    )
