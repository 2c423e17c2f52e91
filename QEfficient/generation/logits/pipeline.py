"""From logits to the next token: processors in transformers' order, then the likeliest token or a draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from QEfficient.generation.logits import truncation
from QEfficient.generation.logits.bias import SequenceBias, never
from QEfficient.generation.logits.forbidden import Forced, NoRepeatedNGrams, Suppressed
from QEfficient.generation.logits.history import History
from QEfficient.generation.logits.length import LengthDecay, not_before
from QEfficient.generation.logits.penalties import EncoderRepetitionPenalty, OutputPenalties, RepetitionPenalty
from QEfficient.generation.logits.processor import Processor
from QEfficient.generation.logits.truncation import softmax
from QEfficient.generation_options import GenerationOptions
from QEfficient.options import SamplingOptions

NO_TOKEN = -1
"""What is chosen where no token is left."""
_FEW = 4
"""One in as many tokens: if fewer are left, the others are dropped from the arrays."""


@dataclass(frozen=True, kw_only=True)
class AnswerShape:
    """What the processors of an answer depend on beside its options."""

    prompt_len: int
    max_new_tokens: int
    eos_token_ids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Pipeline:
    """How the next token is chosen. Equal pipelines choose for their rows at once."""

    processors: tuple[Processor, ...] = ()
    """What changes scores."""
    truncation: tuple[Processor, ...] | None = None
    """What changes them further before a token is drawn; None: the likeliest token is taken."""

    @cached_property
    def _hash(self) -> int:
        return hash((self.processors, self.truncation))

    def __hash__(self) -> int:
        return self._hash

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the next token is the argmax of the logits, so that one argmax serves all rows."""
        return self.truncation is None and not self.processors

    def scores(self, logits: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        """Logits ``[rows, vocab]`` as they are after the processors, in their dtype: float32, as in transformers."""
        scores = np.array(logits, np.promote_types(logits.dtype, np.float32))
        for processor in self.processors:
            scores = processor(scores, rows)
        return scores

    def probabilities(self, logits: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        """Each token's probability ``[rows, vocab]`` of being drawn, in float64."""
        probabilities = np.zeros(logits.shape)
        some, tokens = self._truncated(self.scores(logits, rows), rows)
        probabilities[:, tokens] = some
        return probabilities

    def _truncated(self, scores: np.ndarray, rows: Sequence[History]) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities ``[rows, n]`` of n tokens, and these; all others are ruled out in all rows."""
        scores, tokens = scores.astype(np.float64), np.arange(scores.shape[1])
        for processor in self.truncation or ():
            scores = processor(scores, rows)
            is_left = (scores > -np.inf).any(axis=0)
            if _FEW * is_left.sum() < len(tokens):
                scores, tokens = scores[:, is_left], tokens[is_left]
        return softmax(scores), tokens

    def choose(self, logits: np.ndarray, samplers: Sequence[Sampler]) -> list[int]:
        """The next token of each row, or :data:`NO_TOKEN`."""
        rows = [sampler.history for sampler in samplers]
        scores = self.scores(logits, rows)
        best = scores.argmax(axis=-1)
        is_none = np.isneginf(scores[np.arange(len(rows)), best])
        if self.truncation is None:
            return [NO_TOKEN if none else int(token) for token, none in zip(best, is_none, strict=True)]
        chosen, drawn = [NO_TOKEN] * len(rows), np.flatnonzero(~is_none)
        if len(drawn):
            probabilities, tokens = self._truncated(scores[drawn], [rows[index] for index in drawn])
            for index, row in zip(drawn.tolist(), probabilities, strict=True):
                chosen[index] = int(tokens[samplers[index].draw(row)])
        return chosen


class Sampler:
    """Chooses the tokens of one request.

    Args:
        pipeline: how.
        history: the request's tokens.
        seed: of the random generator; None: another one each time.
    """

    def __init__(self, pipeline: Pipeline, history: History, seed: int | Sequence[int] | None = None):
        self.pipeline, self.history = pipeline, history
        self._random = None if pipeline.truncation is None else np.random.default_rng(seed)

    def draw(self, probabilities: np.ndarray) -> int:
        """A place in ``probabilities [n]``, drawn by them."""
        assert self._random is not None
        return int(self._random.choice(len(probabilities), p=probabilities))


def choose_tokens(logits: np.ndarray, samplers: Sequence[Sampler]) -> list[int]:
    """The next token of each request, from its row of the logits ``[n, vocab]``; :data:`NO_TOKEN`: none is left."""
    groups: dict[Pipeline, list[int]] = {}
    for index, sampler in enumerate(samplers):
        groups.setdefault(sampler.pipeline, []).append(index)
    tokens = [NO_TOKEN] * len(samplers)
    for pipeline, indices in groups.items():
        chosen = pipeline.choose(logits[indices], [samplers[index] for index in indices])
        for index, token in zip(indices, chosen, strict=True):
            tokens[index] = token
    return tokens


def pipeline_of(options: GenerationOptions, shape: AnswerShape, rules: Sequence[Processor] = ()) -> Pipeline:
    """The pipeline of a request.

    Args:
        options: its options, with the checkpoint's defaults.
        shape: what else decides the processors.
        rules: a task's processors and the caller's, which come after those of options.
    """
    processors = [*_biases(options), *_repetition(options)]
    if options.bad_words_ids and (banned := never(options.bad_words_ids, shape.eos_token_ids)).biases:
        processors.append(banned)
    processors += [*_ends(options, shape), *_suppressed(options, shape), *rules]
    return Pipeline(tuple(processors), tuple(_truncation(options)) if options.samples else None)


def _biases(options: GenerationOptions) -> list[Processor]:
    biases = (options.sequence_bias or (), tuple(((token,), bias) for token, bias in options.logit_bias or ()))
    return [SequenceBias(bias) for bias in biases if bias]


def _repetition(options: GenerationOptions) -> list[Processor]:
    processors: list[Processor] = []
    if options.encoder_repetition_penalty not in (None, 1.0):
        processors.append(EncoderRepetitionPenalty(options.encoder_repetition_penalty))
    if options.repetition_penalty not in (None, 1.0):
        processors.append(RepetitionPenalty(options.repetition_penalty))
    if options.frequency_penalty or options.presence_penalty:
        processors.append(OutputPenalties(options.frequency_penalty or 0.0, options.presence_penalty or 0.0))
    if options.no_repeat_ngram_size:
        processors.append(NoRepeatedNGrams(options.no_repeat_ngram_size))
    if options.encoder_no_repeat_ngram_size:
        processors.append(NoRepeatedNGrams(options.encoder_no_repeat_ngram_size, of_source=True))
    return processors


def _ends(options: GenerationOptions, shape: AnswerShape) -> list[Processor]:
    """What decides how an answer begins and where it ends."""
    ends, processors = tuple(sorted(shape.eos_token_ids)), list[Processor]()
    least = options.min_new_tokens
    if least is None:
        least = (options.min_length or 0) - shape.prompt_len
    if ends and least > 0:
        processors.append(not_before(least, ends))
    forced: dict[int, tuple[int, ...]] = {}
    if options.forced_eos_token_id is not None:
        forced[shape.max_new_tokens - 1] = options.forced_eos_token_id
    if options.forced_bos_token_id is not None and shape.prompt_len == 1:
        forced.setdefault(0, (options.forced_bos_token_id,))
    if forced:
        processors.append(Forced(tuple(forced.items())))
    if ends and options.exponential_decay_length_penalty is not None:
        start, factor = options.exponential_decay_length_penalty
        processors.append(LengthDecay(int(start), factor, ends))
    return processors


def _suppressed(options: GenerationOptions, shape: AnswerShape) -> list[Processor]:
    processors: list[Processor] = []
    if options.suppress_tokens:
        processors.append(Suppressed(options.suppress_tokens))
    if options.begin_suppress_tokens:
        comes_second = shape.prompt_len == 1 and options.forced_bos_token_id is not None
        processors.append(Suppressed(options.begin_suppress_tokens, place=int(comes_second)))
    return processors


def _truncation(options: SamplingOptions) -> list[Processor]:
    processors: list[Processor] = []
    if options.temperature is not None:
        processors.append(truncation.Temperature(options.temperature))
    if options.top_k:
        processors.append(truncation.TopK(options.top_k))
    if options.top_p is not None and options.top_p < 1.0:
        processors.append(truncation.TopP(options.top_p))
    if options.min_p:
        processors.append(truncation.MinP(options.min_p))
    if options.typical_p is not None and options.typical_p < 1.0:
        processors.append(truncation.TypicalP(options.typical_p))
    if options.epsilon_cutoff:
        processors.append(truncation.Epsilon(options.epsilon_cutoff))
    if options.eta_cutoff:
        processors.append(truncation.Eta(options.eta_cutoff))
    return processors
