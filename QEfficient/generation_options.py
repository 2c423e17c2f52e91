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
    """Maximum number of tokens, prompt and answer together; max_new_tokens takes precedence."""
    min_new_tokens: int | None = None
    """Minimum number of new tokens before an end token is allowed."""
    min_length: int | None = None
    """Minimum number of tokens, prompt and answer together, before an end token is allowed; min_new_tokens takes
    precedence."""
    eos_token_id: tuple[int, ...] | None = _lists(1, "ids")
    """One or several tokens that end the answer."""
    stop_strings: tuple[str, ...] | None = _lists(1, "texts")
    """One or several strings that end the answer, which includes the token that completes the string."""
    no_repeat_ngram_size: int | None = None
    """No sequence of this many tokens occurs twice in prompt and answer."""
    encoder_no_repeat_ngram_size: int | None = None
    """No sequence of this many tokens from the encoder's input, or from the prompt, occurs in the answer."""
    bad_words_ids: tuple[tuple[int, ...], ...] | None = _lists(2, "json")
    """Token sequences that are not generated: a list of lists."""
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] | None = _lists(3, "json")
    """Pairs of a token sequence and a number, which is added to the score of the last token of the sequence after the
    others."""
    suppress_tokens: tuple[int, ...] | None = _lists(1, "ids")
    """Tokens that are not generated."""
    begin_suppress_tokens: tuple[int, ...] | None = _lists(1, "ids")
    """Tokens that the answer does not start with."""
    forced_bos_token_id: int | None = None
    """Token that the answer starts with, if the prompt is a single token, as for an encoder-decoder model."""
    forced_eos_token_id: tuple[int, ...] | None = _lists(1, "ids")
    """Tokens one of which ends the answer when it reaches its maximum length."""
    exponential_decay_length_penalty: tuple[int, float] | None = _lists(1, "json")
    """A number of new tokens, and a factor above 1: after that many tokens, end tokens become exponentially more
    likely."""
    encoder_repetition_penalty: float | None = None
    """Above 1, makes tokens of the encoder's input, or of the prompt, more likely."""
    presence_penalty: float | None = None
    """Subtracted from the score of each token that the answer already contains."""
    frequency_penalty: float | None = None
    """Subtracted from the score of each token once per occurrence in the answer."""
    logit_bias: tuple[tuple[int, float], ...] | None = _lists(0, "json")
    """Numbers to add to scores: a dict from token id to number."""
    logprobs: int | None = None
    """Return the log probability of each token, and of this many most likely alternatives (0: none)."""
    num_return_sequences: int | None = None
    """Answers per prompt; more than one requires sampling."""

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
class RunArguments(StreamArguments):
    """What a run takes besides: how often and how far it goes, and what it leaves behind."""

    iteration: int = 1
    """Times to run; the result is that of the last."""
    automation: bool = False
    """Go on after end tokens, up to generation_len."""
    write_io: bool = False
    """Write what the card gets and gives in each run to files, for qaic-runner; the folder is logged (card only)."""
    write_io_dir: str | os.PathLike[str] | None = None
    """The folder to write it to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallArguments(RunArguments):
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
