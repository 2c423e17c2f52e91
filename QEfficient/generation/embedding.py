"""Vectors of texts as sentence-transformers makes them: prompts, truncation, normalisation, similarity."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np

from QEfficient.contract import Count
from QEfficient.errors import CapacityError, OptionError, nearest
from QEfficient.generation.sessions.encoder import EncoderSession
from QEfficient.generation.text_options import EncodeOptions, TextOptions
from QEfficient.generation.texts import EncodedText, Texts, encode_texts, is_pair
from QEfficient.progress import counted

logger = logging.getLogger(__name__)

Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingRecord:
    """What a checkpoint's folder says of the texts that its vectors are made of."""

    prompts: dict[str, str] = field(default_factory=dict)
    """Put before texts, by name."""
    default_prompt_name: str | None = None
    max_seq_len: Count | None = None
    """Tokens that a text is cut to; None: the folder does not say."""
    pools_prompt: bool = True
    """Whether the tokens of a prompt count in the pooling."""
    similarity: Similarity = "cosine"

    def __post_init__(self) -> None:
        if self.default_prompt_name is not None and self.default_prompt_name not in self.prompts:
            raise ValueError(f"default_prompt_name={self.default_prompt_name!r} is none of {', '.join(self.prompts)}")

    def prompt(self, options: TextOptions) -> str:
        """What to put before each text.

        Raises:
            OptionError: there is no prompt of this name, or the pooling would have to leave its tokens out.
        """
        name = self.default_prompt_name if options.prompt_name is None else options.prompt_name
        if options.prompt is not None:
            text = options.prompt
        elif name is None:
            text = ""
        elif name in self.prompts:
            text = self.prompts[name]
        else:
            known = ", ".join(self.prompts) or "none: pass prompt='...' instead"
            raise OptionError(f"There is no prompt '{name}'.{nearest(name, self.prompts)} The model has {known}.")
        if text and not self.pools_prompt:
            raise OptionError(
                "This model was trained with a pooling that leaves the prompt's tokens out, which a package does not "
                "do: pass prompt='', or make the vectors of hidden states (pooling=None)."
            )
        return text


@dataclass(frozen=True)
class TextReader:
    """Turns texts into tokens, cut where that is asked for.

    Args:
        tokenizer: returns the tokenizer; called only if there is text.
        takes_types: whether the model takes token types.
        longest: tokens that the package takes.
        max_seq_len: tokens that the checkpoint's folder cuts texts to.
        warned: what was logged of this before; the first time is a warning.
    """

    tokenizer: Callable[[], Any]
    takes_types: bool
    longest: int
    max_seq_len: int | None = None
    warned: set[int] = field(default_factory=set)

    def read(self, texts: Sequence[Any], truncation: bool | None) -> list[EncodedText]:
        """Tokens of each text.

        Raises:
            CapacityError: token ids are too long, which only the tokenizer could cut.
        """
        tokens = encode_texts(cast("Texts", texts), self.tokenizer, self.takes_types)
        limit = self.max_seq_len
        if truncation:
            limit = min(limit or self.longest, self.longest)
        if truncation is False or limit is None:
            return tokens
        long = [index for index, text in enumerate(tokens) if len(text.ids) > limit]
        if not long:
            return tokens
        if any(not isinstance(texts[index], str) and not is_pair(texts[index]) for index in long):
            raise CapacityError(f"Token ids longer than {limit} were passed: cut them, or pass text.")
        if truncation is None:
            level = logging.INFO if limit in self.warned else logging.WARNING
            logger.log(level, "%d of %d texts are cut to the model's %d tokens.", len(long), len(tokens), limit)
            self.warned.add(limit)
        shorter = self.tokenizer().truncated(limit)
        for index, text in zip(
            long, encode_texts([texts[index] for index in long], lambda: shorter, self.takes_types), strict=True
        ):
            tokens[index] = text
        return tokens


def run_texts(
    session: EncoderSession, reader: TextReader, record: EmbeddingRecord, texts: Sequence[Any], options: TextOptions
) -> np.ndarray:
    """Results ``[n, ...]`` of texts in their order, each with its prompt; those of like length run together.

    Args:
        session: gives one vector per text.
        reader: of the texts.
        record: of the checkpoint's folder.
        texts: texts, pairs, token ids, or a tokenizer's output.
        options: how.
    """
    prompt = record.prompt(options)
    if prompt and isinstance(texts, list | tuple):
        texts = [_with_prompt(prompt, text) for text in texts]
    tokens = reader.read(texts, options.truncation)
    if not options.show_progress_bar:
        return session.run(tokens)
    with counted("Running", f"{len(tokens)} texts", len(tokens)) as report:
        return session.run(tokens, report)


def _with_prompt(prompt: str, text: Any) -> Any:
    if is_pair(text):
        return (prompt + text[0], text[1])
    return prompt + text if isinstance(text, str) else text


def finished(vectors: np.ndarray, options: EncodeOptions) -> np.ndarray:
    """``vectors [n, D]`` cut and scaled.

    Raises:
        OptionError: they have fewer features than ``truncate_dim``.
    """
    if options.truncate_dim is not None:
        if options.truncate_dim > vectors.shape[1]:
            raise OptionError(f"truncate_dim={options.truncate_dim}: the model's vectors have {vectors.shape[1]}.")
        vectors = vectors[:, : options.truncate_dim]
    return unit(vectors) if options.normalize_embeddings else vectors


def as_asked(vectors: np.ndarray, as_tensor: bool) -> np.ndarray:
    """An array, or the tensor that was asked for."""
    if not as_tensor:
        return vectors
    import torch

    return cast("np.ndarray", torch.from_numpy(np.ascontiguousarray(vectors)))


def unit(vectors: np.ndarray) -> np.ndarray:
    """``vectors [n, D]`` of length 1; those of zeros stay as they are."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def are_vectors(value: object) -> bool:
    """Whether ``value`` is an array or a tensor of floats, or a list of these."""
    if isinstance(value, list | tuple):
        return bool(value) and all(are_vectors(each) for each in value)
    return "float" in str(getattr(value, "dtype", ""))


def similarity(first: Any, second: Any, kind: Similarity) -> np.ndarray:
    """How alike vectors are, float32 ``[n, m]``, greater for more alike: distances are negative.

    Args:
        first: ``[n, D]``, or one vector ``[D]``.
        second: ``[m, D]``, or one vector.
        kind: the function.

    Raises:
        OptionError: they are no vectors of one width.
    """
    one, other = (np.atleast_2d(np.asarray(each, np.float32)) for each in (first, second))
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise OptionError(f"similarity() takes vectors [n, D] of one width, got {one.shape} and {other.shape}.")
    if kind == "cosine":
        one, other = unit(one), unit(other)
    if kind in ("cosine", "dot"):
        return one @ other.T
    order = 1 if kind == "manhattan" else 2
    return np.stack([-np.linalg.norm(other - row, ord=order, axis=1) for row in one])
