"""The model that a run starts from: a checkpoint with its tokenizer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from QEfficient.errors import CheckpointError, CorruptCheckpoint, OptionError, UnsupportedModel
from QEfficient.finetune.devices import choose_device, choose_precision
from QEfficient.finetune.settings import FinetuneOptions
from QEfficient.store.digests import digest, file_digest
from QEfficient.transformers.checkpoint import load as loading
from QEfficient.transformers.checkpoint.missing import MissingParameter, adopt_missing
from QEfficient.transformers.quantizers.auto import read_scheme
from QEfficient.transformers.tasks.position_limits import max_seq_len

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Base:
    """A checkpoint to train.

    Attributes:
        name: As it was asked for, on the Hub or a folder.
        folder: Where its files are.
        config: Hugging Face's.
        tokenizer: Has a pad token.
        digest: Of the weights.
        trust_remote_code: Whether its Python files may run.
    """

    name: str
    folder: Path
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    digest: str
    trust_remote_code: bool

    @classmethod
    def open(cls, name: str | os.PathLike[str], hub: Mapping[str, Any], trust_remote_code: bool) -> Base:
        """Read everything but the weights.

        Raises:
            CheckpointError: the model cannot be trained; see ``from_pretrained``.
        """
        folder = loading.resolve(name, **hub)
        if read_scheme(folder) is not None:
            raise UnsupportedModel(f"'{name}' is quantized: train the checkpoint that it was made of.")
        files = loading.check_safe(folder, trust_remote_code)
        tokenizer = loading.load_tokenizer(folder, trust_remote_code)
        if tokenizer is None:
            raise CheckpointError(f"'{name}' brings no tokenizer. Save one into its folder.")
        if tokenizer.pad_token is None and tokenizer.eos_token is None:
            raise CheckpointError(f"The tokenizer of '{name}' has neither a pad token nor an end token. Set one.")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        config = loading.load_config(folder, trust_remote_code)
        weights = digest([file_digest(path) for path in sorted(files.paths)])
        base = cls(str(name), folder, config, tokenizer, weights, trust_remote_code)
        base.check_tokens([[tokenizer.pad_token_id]])
        return base

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels that it gives a text; none if it is no classifier yet."""
        heads = self.config.architectures or ()
        if not any(head.endswith("ForSequenceClassification") for head in heads):
            return ()
        names = [self.config.id2label[number] for number in range(self.config.num_labels)]
        is_named = any(name != f"LABEL_{number}" for number, name in enumerate(names))
        return tuple(names) if is_named else tuple(map(str, range(len(names))))

    def check_tokens(self, sequences: Iterable[Sequence[int]]) -> None:
        """
        Args:
            sequences: token ids of each example.

        Raises:
            CheckpointError: one is beyond the model's embeddings.
        """
        num_tokens = getattr(self.config.get_text_config(), "vocab_size", None)
        greatest = max(max(ids, default=0) for ids in sequences)
        if num_tokens is not None and greatest >= num_tokens:
            token = self.tokenizer.convert_ids_to_tokens(greatest)
            raise CheckpointError(
                f"The tokenizer of '{self.name}' gives {token!r} the number {greatest}, and the model has embeddings "
                f"for {num_tokens:,} tokens. Take the tokenizer that belongs to the model, or resize the embeddings "
                "with resize_token_embeddings() and save the model."
            )

    def check_lengths(self, model: PreTrainedModel, sequences: Iterable[Sequence[int]]) -> None:
        """
        Args:
            model: loaded from this.
            sequences: token ids of each example.

        Raises:
            OptionError: one is longer than the model has positions.
        """
        longest, limit = max(map(len, sequences)), max_seq_len(model)
        if limit is not None and longest > limit:
            raise OptionError(
                f"The longest sequence of the data has {longest} tokens, and '{self.name}' has {limit} positions: give "
                f"context_length={limit} to cut longer ones."
            )

    def load(self, options: FinetuneOptions, labels: Sequence[str]) -> PreTrainedModel:
        """The model with its weights.

        Args:
            options: of the run.
            labels: that it shall give, in classification; a model that gives none gets a new head, of the run's seed.

        Raises:
            CorruptCheckpoint: weights are missing.
        """
        import transformers

        precision = choose_precision(options, choose_device(options))
        # A frozen base may be in the numbers of the computation; weights that are trained need more digits.
        dtype = torch.bfloat16 if options.use_peft and precision == "bf16" else torch.float32
        is_classifier = options.task_mode == "seq_classification"
        auto_class = transformers.AutoModelForCausalLM
        if is_classifier:
            auto_class = transformers.AutoModelForSequenceClassification
            self._label(labels)
        transformers.set_seed(options.seed)
        model = loading.load_model(auto_class, self.folder, self.trust_remote_code, dtype=dtype, config=self.config)
        self._adopt_head(model, may_be_new=is_classifier)
        if not Path(
            self.name
        ).is_dir():  # PEFT writes it into the adapter: a name of the Hub, not a folder of its cache
            model.name_or_path = self.name
        return model

    def _label(self, labels: Sequence[str]) -> None:
        self.config.id2label = dict(enumerate(labels))
        self.config.label2id = {name: number for number, name in enumerate(labels)}
        self.config.problem_type = "single_label_classification"
        self.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id

    def _adopt_head(self, model: PreTrainedModel, *, may_be_new: bool) -> None:
        missing = [name for name, weight in model.named_parameters() if isinstance(weight, MissingParameter)]
        body = f"{model.base_model_prefix}."
        lost = [name for name in missing if not may_be_new or (name.startswith(body) and ".pooler." not in name)]
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            raise CorruptCheckpoint(
                f"'{self.name}' does not have the weight '{lost[0]}'{more}, and training would start from random "
                "numbers there. Train a checkpoint that is complete."
            )
        adopt_missing(model)
