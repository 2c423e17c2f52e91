"""How speech models are asked, and which tokens they may answer with: transformers' rules, as numpy.

What a checkpoint's ``generation_config.json`` says decides: languages and tasks that have tokens, tokens that are never
or not at first an answer, and timestamps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from QEfficient.errors import CorruptArtifact, OptionError, nearest
from QEfficient.generation.logits.processor import ScoreRule
from QEfficient.options import Options, require_bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechOptions(Options):
    """What is asked of a speech model."""

    language: str | None = None
    """Of the audio: a code such as 'en', its token, or its name in English; None: the model says it."""
    task: str | None = None
    """'transcribe', or 'translate' into English; None: the checkpoint's."""
    return_timestamps: bool | None = None
    """Whether the answer has tokens of times; None: the checkpoint's."""
    composer: str | None = None
    """Whom the notes of an answer are to be like; None: the model's usual one."""

    def __post_init__(self) -> None:
        if self.return_timestamps is not None:
            require_bool("return_timestamps", self.return_timestamps)


@dataclass(frozen=True, kw_only=True)
class SpeechPrompt:
    """How an answer begins."""

    ids: list[int]
    """The tokens before it."""
    asks_language: tuple[int, ...] = ()
    """Tokens of languages, of which the model's choice comes next; empty: it is not asked."""
    after_language: list[int] = field(default_factory=list)
    """The tokens after that one."""

    @property
    def num_answered(self) -> int:
        """Tokens of the answer that are still part of its beginning."""
        return 1 + len(self.after_language) if self.asks_language else 0


def _only(allowed: Sequence[int]) -> ScoreRule:
    """The first token of an answer is one of these."""
    kept = np.array(allowed)

    def rule(scores: np.ndarray, answer: Sequence[int]) -> np.ndarray:
        if answer:
            return scores
        only = np.full_like(scores, -np.inf)
        only[kept] = scores[kept]
        return only

    return rule


def _never(suppressed: Sequence[int], begin: int | None = None) -> ScoreRule:
    """These tokens are no answer; with ``begin``, not at that place of it."""
    removed = np.array(suppressed)

    def rule(scores: np.ndarray, answer: Sequence[int]) -> np.ndarray:
        if begin is None or len(answer) == begin:
            scores[removed[removed < len(scores)]] = -np.inf
        return scores

    return rule


@dataclass(frozen=True)
class Timestamps:
    """Tokens of times come in pairs, do not decrease, and one comes where they are together the likeliest.

    Args:
        first: the token of time 0; those of later times follow it.
        eos: the end token, below which text is.
        max_initial: how many times after 0 an answer may begin at.
        begin: tokens of the answer before its text.
    """

    first: int
    eos: int
    max_initial: int | None = None
    begin: int = 0

    def __call__(self, scores: np.ndarray, answer: Sequence[int]) -> np.ndarray:
        answer = answer[self.begin :]
        scores[self.first - 1] = -np.inf
        last_is_time = len(answer) >= 1 and answer[-1] >= self.first
        before_is_time = len(answer) < 2 or answer[-2] >= self.first
        if last_is_time and before_is_time:
            scores[self.first :] = -np.inf
        elif last_is_time:
            scores[: self.eos] = -np.inf
        times = [token for token in answer if token >= self.first]
        if times:
            ends = last_is_time and not before_is_time
            scores[self.first : times[-1] + (0 if ends else 1)] = -np.inf
        if not answer:
            scores[: self.first] = -np.inf
            if self.max_initial is not None:
                scores[self.first + self.max_initial + 1 :] = -np.inf
        return self._time_where_likeliest(scores)

    def _time_where_likeliest(self, scores: np.ndarray) -> np.ndarray:
        values = scores.astype(np.float32)
        most = values.max()
        if not np.isfinite(most):
            return scores
        with np.errstate(divide="ignore"):
            logarithms = values - most - np.log(np.exp(values - most).sum())
            times = np.log(np.exp(logarithms[self.first :]).sum())
        if times > logarithms[: self.first].max():
            scores[: self.first] = -np.inf
        return scores


class SpeechRules:
    """The rules of a checkpoint.

    Args:
        config: its ``generation_config.json``.
        start: the token that answers start with.
        vocab_size: of the decoder.
        where: the file, for messages.

    Raises:
        CorruptArtifact: an entry is none.
    """

    def __init__(self, config: Mapping[str, Any], start: int, vocab_size: int, where: str):
        self._config, self._start, self._vocab_size, self._where = config, start, vocab_size, where
        self.languages = self._ids_by_name("lang_to_id")
        """The tokens of languages, by their texts."""
        self.tasks = self._ids_by_name("task_to_id")
        self.no_timestamps = self._optional_id("no_timestamps_token_id")
        self._suppressed = self._ids("suppress_tokens")
        self._suppressed_first = self._ids("begin_suppress_tokens")
        self._eos = self._first_id("eos_token_id")

    @property
    def first_timestamp(self) -> int | None:
        """The token of time 0; None where the model has none."""
        return None if self.no_timestamps is None else self.no_timestamps + 1

    def takes_timestamps(self, options: SpeechOptions) -> bool:
        """Whether the answer has timestamps.

        Raises:
            OptionError: they are asked for, and the model has none.
        """
        asked = options.return_timestamps
        if asked is None:
            asked = bool(self._config.get("return_timestamps", False))
        if asked and self.no_timestamps is None:
            raise OptionError(
                "return_timestamps: the checkpoint's generation config has no no_timestamps_token_id, so the model has "
                "no tokens of times."
            )
        return asked

    def prompt(self, options: SpeechOptions) -> SpeechPrompt:
        """How an answer begins, as in transformers.

        Raises:
            OptionError: a language or a task that the model does not have.
        """
        language, task = self._asked("language", options.language), self._asked("task", options.task)
        if (language or task) and self._config.get("is_multilingual") is False:
            raise OptionError("language and task are for models of several languages; this one is for English alone.")
        ids: list[int | None] = [self._start]
        if language is None and task is None:
            ids += self._forced()
        is_unknown = len(ids) < 2 or ids[1] is None
        asks = language is None and bool(self.languages) and is_unknown
        if language is not None:
            ids[1:2] = [self._language_id(language)]
        rest: list[int | None] = ids[2:]
        self._add_task(rest, task, has_language=language is not None)
        if self.takes_timestamps(options):
            rest = rest[:-1] if rest and rest[-1] == self.no_timestamps else rest
        elif self.no_timestamps is not None and (rest or ids)[-1] != self.no_timestamps:
            rest.append(self.no_timestamps)
        after = [token for token in rest if token is not None]
        if asks:
            return SpeechPrompt(ids=[self._start], asks_language=(*self.languages.values(),), after_language=after)
        return SpeechPrompt(ids=[token for token in [*ids[:2], *after] if token is not None])

    def language_of(self, prompt: SpeechPrompt) -> str | None:
        """The language that a prompt names, as a code; None: none."""
        names = {token: text for text, token in self.languages.items()}
        return next((names[token].strip("<|>") for token in prompt.ids if token in names), None)

    def rules(self, prompt: SpeechPrompt, options: SpeechOptions) -> tuple[ScoreRule, ...]:
        """What changes the scores of an answer, in order."""
        begin = prompt.num_answered
        rules: list[ScoreRule] = []
        if prompt.asks_language:
            rules.append(_only(prompt.asks_language))
        if self._suppressed_first:
            rules.append(_never(self._suppressed_first, begin))
        if self._suppressed:
            rules.append(_after(begin, _never(self._suppressed)))
        if self.takes_timestamps(options) and self.first_timestamp is not None:
            most = self._config.get("max_initial_timestamp_index")
            times = Timestamps(self.first_timestamp, self._eos, most if isinstance(most, int) else None, begin)
            rules.append(_after(begin, times))
        return tuple(rules)

    def _asked(self, name: str, value: str | None) -> str | None:
        value = self._config.get(name) if value is None else value
        if value is not None and not isinstance(value, str):
            raise OptionError(f"{name} must be text, got {value!r}.")
        return value

    def _add_task(self, rest: list[int | None], task: str | None, *, has_language: bool) -> None:
        if task is not None:
            if task not in self.tasks:
                raise OptionError(
                    f"task={task!r}: the model has {', '.join(self.tasks) or 'no tasks'}.{nearest(task, self.tasks)}"
                )
            rest[:] = [token for token in rest if token not in self.tasks.values()]
            rest.append(self.tasks[task])
        elif has_language and "transcribe" in self.tasks and not {*rest} & {*self.tasks.values()}:
            rest.append(self.tasks["transcribe"])

    def _language_id(self, language: str) -> int:
        if not self.languages:
            raise OptionError("language: the checkpoint's generation config has no lang_to_id, so it has no languages.")
        lower = language.lower()
        for token in (lower, f"<|{lower}|>"):
            if token in self.languages:
                return self.languages[token]
        code = _codes().get(lower)
        if code is not None and f"<|{code}|>" in self.languages:
            return self.languages[f"<|{code}|>"]
        known = [token.strip("<|>") for token in self.languages]
        raise OptionError(f"language={language!r}: the model has {', '.join(known)}.{nearest(lower, known)}")

    def _forced(self) -> list[int | None]:
        """The first tokens that old checkpoints say, in order."""
        forced = self._config.get("forced_decoder_ids")
        ids: list[int | None] = []
        for pair in forced if isinstance(forced, list) else ():
            if not isinstance(pair, list | tuple) or len(pair) != 2 or pair[0] != len(ids) + 1:
                raise CorruptArtifact(
                    f"{self._where}: forced_decoder_ids is {forced!r}, expected pairs from place 1 on."
                )
            ids.append(None if pair[1] is None else self._checked(pair[1], "forced_decoder_ids"))
        return ids

    def _ids_by_name(self, name: str) -> dict[str, int]:
        value = self._config.get(name) or {}
        if not isinstance(value, Mapping):
            raise CorruptArtifact(f"{self._where}: {name} is {value!r}, expected tokens by their texts.")
        return {str(text): self._checked(token, name) for text, token in value.items()}

    def _ids(self, name: str) -> list[int]:
        value = self._config.get(name) or []
        if not isinstance(value, list | tuple):
            raise CorruptArtifact(f"{self._where}: {name} is {value!r}, expected a list of tokens.")
        return [self._checked(token, name) for token in value]

    def _optional_id(self, name: str) -> int | None:
        value = self._config.get(name)
        return None if value is None else self._checked(value, name)

    def _first_id(self, name: str) -> int:
        value = self._config.get(name)
        value = value[0] if isinstance(value, list) and value else value
        return self._vocab_size if value is None else self._checked(value, name)

    def _checked(self, token: object, name: str) -> int:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < self._vocab_size:
            raise CorruptArtifact(
                f"{self._where}: {name} has {token!r}, expected tokens from 0 to {self._vocab_size - 1}. Compile again."
            )
        return token


def _after(begin: int, inner: ScoreRule) -> ScoreRule:
    """``inner`` once the beginning of an answer is there."""

    def rule(scores: np.ndarray, answer: Sequence[int]) -> np.ndarray:
        return inner(scores, answer) if len(answer) >= begin else scores

    return rule if begin else inner


def _codes() -> dict[str, str]:
    """Codes of languages by their names in English, which transformers knows."""
    try:
        from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE
    except ImportError:
        return {}
    return dict(TO_LANGUAGE_CODE)
