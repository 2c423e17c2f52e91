"""The options of ``generate``: transformers' names and meanings, and four of OpenAI's."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Protocol

from QEfficient.errors import OptionError
from QEfficient.options import Options, SamplingOptions

if TYPE_CHECKING:
    from transformers import GenerationConfig

Biases = tuple[tuple[tuple[int, ...], float], ...]


def _lists(depth: int, form: str) -> Any:
    """An option, None by default, whose value is a list.

    Args:
        depth: of lists in lists; a value that is deeper is a list with one for each prompt.
        form: how a flag takes it: "ids", separated by commas; "texts", a flag for each; or "json".
    """
    return field(default=None, metadata={"depth": depth, "form": form})


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationOptions(SamplingOptions):
    """What an answer may be and where it ends."""

    max_new_tokens: int | None = None
    """Maximum number of new tokens; the same as generation_len. Default: max_length, else what fits into ctx_len."""
    max_length: int | None = None
    """Maximum number of tokens of prompt and answer together; max_new_tokens goes before it."""
    min_new_tokens: int | None = None
    """No end token before as many new tokens."""
    min_length: int | None = None
    """No end token before as many tokens of prompt and answer together; min_new_tokens goes before it."""
    eos_token_id: tuple[int, ...] | None = _lists(1, "ids")
    """Tokens that end the answer, one or several."""
    stop_strings: tuple[str, ...] | None = _lists(1, "texts")
    """Texts that end the answer, one or several; the answer ends with the token that completes one."""
    no_repeat_ngram_size: int | None = None
    """No as many tokens in a row occur twice in prompt and answer."""
    encoder_no_repeat_ngram_size: int | None = None
    """No as many tokens in a row of what the encoder reads, or of the prompt, occur in the answer."""
    bad_words_ids: tuple[tuple[int, ...], ...] | None = _lists(2, "json")
    """Sequences of tokens that do not occur: a list of lists."""
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] | None = _lists(3, "json")
    """Pairs of a sequence of tokens and a number, which is added to the score of its last token after the others."""
    suppress_tokens: tuple[int, ...] | None = _lists(1, "ids")
    """Tokens that do not occur."""
    begin_suppress_tokens: tuple[int, ...] | None = _lists(1, "ids")
    """Tokens that the answer does not begin with."""
    forced_bos_token_id: int | None = None
    """Token that the answer begins with, where its prompt is a single token, as that of a decoder."""
    forced_eos_token_id: tuple[int, ...] | None = _lists(1, "ids")
    """Tokens of which one is the last where the answer reaches its maximum length."""
    exponential_decay_length_penalty: tuple[int, float] | None = _lists(1, "json")
    """A number of new tokens, and a factor above 1: after as many, end tokens become exponentially likelier."""
    encoder_repetition_penalty: float | None = None
    """Above 1 makes tokens that the encoder reads, or those of the prompt, likelier."""
    presence_penalty: float | None = None
    """Subtracted from the score of each token that the answer has."""
    frequency_penalty: float | None = None
    """Subtracted from the score of each token as often as the answer has it."""
    logit_bias: tuple[tuple[int, float], ...] | None = _lists(0, "json")
    """Numbers that are added to scores, by token id: a dict."""
    logprobs: int | None = None
    """Return the logarithm of each token's probability, and those of as many likeliest tokens, 0 for none."""
    num_return_sequences: int | None = None
    """Answers to each prompt; more than one need sampling."""

    def __post_init__(self) -> None:
        SamplingOptions.__post_init__(self)
        for name in ("max_new_tokens", "max_length", "num_return_sequences"):
            self._require(name, "a whole number of at least 1", lambda value: value >= 1, Integral)
        least = ("min_new_tokens", "min_length", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "logprobs")
        for name in (*least, "forced_bos_token_id"):
            self._require(name, "a whole number, 0 or more", lambda value: value >= 0, Integral)
        for name in ("presence_penalty", "frequency_penalty"):
            self._require(name, "a finite number", lambda value: abs(value) < float("inf"))
        self._require("encoder_repetition_penalty", "a finite number above 0", lambda value: 0 < value < float("inf"))
        self._read_lists()

    def _read_lists(self) -> None:
        """Bring lists into one form."""
        ids = ("eos_token_id", "suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id")
        for name in ids:
            self._set(name, _ids)
        self._set("stop_strings", _texts)
        self._set("bad_words_ids", _sequences)
        self._set("sequence_bias", _biases)
        self._set("exponential_decay_length_penalty", _decay)
        self._set("logit_bias", _by_token)

    def _set(self, name: str, read: Any) -> None:
        value = getattr(self, name)
        if value is not None:
            object.__setattr__(self, name, read(name, value))


class Streamer(Protocol):
    """What transformers' streamers do: it gets the prompt's tokens, then each new one."""

    def put(self, value: Any) -> None:
        """Take tokens: of the prompt ``[1, tokens]``, then ``[1]``."""
        ...

    def end(self) -> None:
        """The answer is complete."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamArguments(Options):
    """What ``stream`` takes besides :class:`GenerationOptions`."""

    adapter: str | None = None
    """The name of the adapter to answer with, where the model has some. Default: the model without one."""
    generation_config: GenerationConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None
    """A ``GenerationConfig`` of transformers, a dict with its entries, or the path of a ``generation_config.json`` or
    of its folder. It goes before the checkpoint's."""
    logits_processor: Callable[[Any, Any], Any] | Sequence[Callable[[Any, Any], Any]] | None = None
    """A function, or a list of them, from tokens ``[1, tokens]`` and scores ``[1, vocab]`` to scores."""
    stopping_criteria: Callable[[Any, Any], Any] | Sequence[Callable[[Any, Any], Any]] | None = None
    """A function, or a list of them, from tokens ``[1, tokens]`` and None to whether the answer ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallArguments(StreamArguments):
    """What ``generate`` takes besides :class:`GenerationOptions`."""

    streamer: Streamer | None = None
    """A streamer of transformers, or another object with its put() and end(), for a single answer."""


LIST_DEPTHS: dict[str, int] = {
    item.name: item.metadata["depth"] for item in fields(GenerationOptions) if "depth" in item.metadata
}
"""How deep the value of an option is in lists."""


def is_for_each(name: str, value: object) -> bool:
    """Whether an option's value is a list with one for each prompt: it is deeper than one value is, or has None."""
    depth = _depth(value)
    if depth and None in value:  # type: ignore[operator]
        return True
    if name == "sequence_bias" and depth == 1:  # of dicts
        return True
    return depth > LIST_DEPTHS.get(name, 0)


def _depth(value: object) -> int:
    """Of lists in lists; that of their deepest items."""
    if not isinstance(value, list | tuple):
        return 0
    return 1 + max((_depth(item) for item in value), default=0)


def _wrong(name: str, expected: str, value: object) -> OptionError:
    return OptionError(f"{name} must be {expected}, got {repr(value)[:80]}.")


def _is_id(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and value == value


def _ids(name: str, value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not all(map(_is_id, values)):
        raise _wrong(name, "a token id or a list of them", value)
    return tuple(int(token) for token in values)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, Sequence) or not all(isinstance(text, str) and text for text in values):
        raise _wrong(name, "a text or a list of texts, none of them empty", value)
    return tuple(values)


def _is_sequence(ids: Any) -> bool:
    is_list = isinstance(ids, Sequence) and not isinstance(ids, str) and len(ids) > 0
    return is_list and all(_is_id(token) and token >= 0 for token in ids)


def _sequences(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, Sequence) or not all(map(_is_sequence, value)):
        raise _wrong(name, "a list of lists of token ids, 0 or more", value)
    return tuple(tuple(int(token) for token in ids) for ids in value)


def _biases(name: str, value: Any) -> Biases:
    expected = "a dict from tuples of token ids to numbers, or a list of pairs [token ids, number]"
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, Sequence) or isinstance(pairs, str):
        raise _wrong(name, expected, value)
    for pair in pairs:
        if not isinstance(pair, Sequence) or len(pair) != 2 or not (_is_sequence(pair[0]) and _is_number(pair[1])):
            raise _wrong(name, expected, value)
    return tuple((tuple(int(token) for token in ids), float(bias)) for ids, bias in pairs)


def _decay(name: str, value: Any) -> tuple[int, float]:
    is_pair = isinstance(value, Sequence) and len(value) == 2
    if not is_pair or not _is_id(value[0]) or value[0] < 0 or not _is_number(value[1]) or value[1] <= 0:
        raise _wrong(name, "a pair of a number of tokens, 0 or more, and a factor above 0", value)
    return int(value[0]), float(value[1])


def _by_token(name: str, value: Any) -> tuple[tuple[int, float], ...]:
    """OpenAI's keys are texts."""
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    try:
        return tuple((_token(token), float(bias)) for token, bias in pairs)
    except (TypeError, ValueError) as error:
        raise _wrong(name, "a dict from token ids to numbers", value) from error


def _token(key: Any) -> int:
    if not _is_id(key) and not isinstance(key, str):
        raise TypeError
    return int(key)
