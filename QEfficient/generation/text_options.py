"""Options of ``encode``, ``predict`` and ``rank``, by their names in sentence-transformers."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from QEfficient.errors import OptionError
from QEfficient.options import Options

_COUNTS = ("batch_size", "truncate_dim", "top_k")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextOptions(Options):
    """How texts are read and run."""

    prompt_name: str | None = None
    """Name of the model's prompt to put before each text. Default: the model's default prompt, if it has one."""
    prompt: str | None = None
    """A prompt to put before each text, instead of one of the model's."""
    batch_size: int | None = None
    """Texts per run. Default: the compiled batch size, which is fixed on a card."""
    truncation: bool | None = None
    """Cut texts that are too long. True: at the maximum of the model and the package. False: never. Default: at the
    maximum length that the model's folder names, if any, with a warning."""
    show_progress_bar: bool = False
    """Show a progress bar."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name, None)
            if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
                raise OptionError(f"{name} must be a whole number, 1 or more, got {value!r}.")
        if self.prompt is not None and self.prompt_name is not None:
            raise OptionError("prompt_name is the name of one of the model's prompts and prompt is a text: pass one.")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeOptions(TextOptions):
    """How texts become vectors."""

    normalize_embeddings: bool = False
    """Scale each vector to length 1."""
    truncate_dim: int | None = None
    """Keep only the first so many dimensions of each vector, before normalization."""
    convert_to_tensor: bool = False
    """Return a torch tensor instead of an array."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictOptions(TextOptions):
    """How texts get scores."""

    apply_softmax: bool = False
    """Turn the scores of several labels into probabilities that add up to 1."""
    convert_to_tensor: bool = False
    """Return a torch tensor instead of an array."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankOptions(TextOptions):
    """How documents are put in order."""

    top_k: int | None = None
    """Return only the best k documents. Default: all."""
    return_documents: bool = False
    """Return each document beside its index and score."""
