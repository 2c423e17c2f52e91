"""The result of a fine-tuning run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class FinetuneReport:
    """What a run did.

    Attributes:
        output_dir: Its folder.
        model: The folder of the result, an adapter or a checkpoint; None if the run was stopped before its end.
        num_steps: Optimizer steps since the start of the training, those before a resume included.
        num_examples: Sequences that it trained on in an epoch, before packing.
        num_trained: Parameters that were trained.
        num_parameters: Of the whole model.
        loss: Of the last step that was reported, per token; in classification, per text.
        eval_loss: Of the validation data at the end; None without any.
        perplexity: exp of it; None in classification.
        accuracy: Share of the validation data whose label the model gives, in classification.
        stopped_by: The signal that stopped it, if one did.
        checkpoint: The newest complete checkpoint.
    """

    output_dir: Path
    model: Path | None
    num_steps: int
    num_examples: int
    num_trained: int
    num_parameters: int
    loss: float | None
    eval_loss: float | None
    perplexity: float | None
    accuracy: float | None
    stopped_by: str | None
    checkpoint: Path | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        share = f"{self.num_trained:,} of {self.num_parameters:,} parameters"
        losses = "" if self.loss is None else f", loss {self.loss:.4f}"
        if self.eval_loss is not None:
            kind, value = ("perplexity", self.perplexity) if self.accuracy is None else ("accuracy", self.accuracy)
            losses += f", validation loss {self.eval_loss:.4f} ({kind} {value:.4g})"
        if self.stopped_by is not None:
            return f"Stopped by {self.stopped_by} after {self.num_steps} steps{losses}. Continue with resume."
        return f"{self.num_steps} steps, {share}{losses}. The result is in {self.model}."
