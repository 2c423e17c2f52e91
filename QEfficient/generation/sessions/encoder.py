"""Encoders and classifiers of texts over a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from QEfficient.contract import Count
from QEfficient.errors import OptionError
from QEfficient.generation.programs.program import Program
from QEfficient.generation.prompts import token_ids
from QEfficient.generation.sessions.retained import check_names
from QEfficient.generation.sessions.sequences import SequenceSession
from QEfficient.generation.texts import EncodedText

_REQUIRED = frozenset({"input_ids", "attention_mask"})
_TOKEN_TYPE_IDS = "token_type_ids"


@dataclass(frozen=True, kw_only=True, slots=True)
class InputContract:
    """How a package takes input sequences."""

    seq_lens: tuple[Count, ...]
    """Compiled lengths, ascending."""
    batch_size: Count
    """Sequences per run."""
    min_len: Count = 1
    """Tokens of the shortest sequence, where there is no padding."""
    padding_side: Literal["left", "right"] | None = "right"
    """None: a sequence runs at exactly its length."""
    why_not_padded: str = ""
    token_type_ids: Literal["none", "optional", "required"] = "none"
    """Whether they are an input; "optional": zeros if the caller passes none."""
    end_token_id: int | None = None
    """A token that every sequence must have, because the model reads its result there."""
    vocab_size: Count | None = None
    """Token ids that the model has; None: the config does not say."""
    type_vocab_size: Count | None = None
    """Token types that the model has; None: the config does not say."""

    def __post_init__(self) -> None:
        if not self.seq_lens or sorted({*self.seq_lens}) != [*self.seq_lens]:
            raise ValueError(f"seq_lens={list(self.seq_lens)} are not ascending")


_MOST_IDS = 2**31
"""Where the config does not say how many there are."""


def _as_text(index: int, text: object) -> EncodedText:
    if not isinstance(text, EncodedText):
        return EncodedText(token_ids(text, f"Text {index}"))
    ids, token_types = token_ids(text.ids, f"Text {index}"), text.token_type_ids
    if token_types is None:
        return replace(text, ids=ids)
    token_types = token_ids(token_types, f"The token types of text {index}")
    if len(token_types) != len(ids):
        raise OptionError(f"Text {index} has {len(ids)} tokens and {len(token_types)} token types.")
    return replace(text, ids=ids, token_type_ids=token_types)


def _check_range(index: int, values: Sequence[int], size: int | None, what: str) -> None:
    size = _MOST_IDS if size is None else size
    unknown = [value for value in values if not 0 <= value < size]
    if unknown:
        raise OptionError(
            f"Text {index} has the {what} {unknown[0]}, and the model's go from 0 to {size - 1}. Was it encoded with "
            "another model's tokenizer?"
        )


class EncoderSession(SequenceSession[EncodedText | Sequence[int], EncodedText]):
    """Texts of any mix of lengths, up to the longest compiled one. For any number of threads."""

    noun, unit, what = "Text", "tokens", "encoded texts"
    others: ClassVar[frozenset[str]] = frozenset({_TOKEN_TYPE_IDS})
    """Inputs that a program may have besides."""

    def __init__(self, program: Program, contract: InputContract, output: str, fixed_len: int | None = None):
        """
        Args:
            program: closed with the session.
            contract: what the package says.
            output: name of the result.
            fixed_len: the only length that the program runs at, where it says no shapes.

        Raises:
            CorruptArtifact: the program is not what the package says.
        """
        self.contract: InputContract = contract
        self._fixed_len = fixed_len
        check_names(program, _REQUIRED, self.others, output)
        super().__init__(program, contract, "input_ids", output, fixed_len)

    def beside(self, contract: InputContract, output: str) -> EncoderSession:
        """A session for another output of the same program, which runs for one of them at a time.

        Raises:
            CorruptArtifact: the program has no such output.
        """
        other = EncoderSession(self._program, contract, output, self._fixed_len)
        other._lock = self._lock
        return other

    def run(
        self, texts: Sequence[EncodedText | Sequence[int]], report: Callable[[], object] | None = None
    ) -> np.ndarray:
        """Results of all texts in their order: ``[n, ...]``, or ``[n, longest, hidden]`` of hidden states; arguments as
        of :meth:`run_each`.

        Raises:
            CapacityError: a text is empty, too long, or of a length that cannot run.
            NumericError: a result is no number.
            OptionError: a text is none, or lacks an input or a token that the model needs.
        """
        results = self.run_each(texts, report)
        longest = max(len(result) for result in results)
        if results[0].ndim > 1:
            results = [np.pad(result, ((0, longest - len(result)), (0, 0))) for result in results]
        return np.stack(results)

    def _checked(self, index: int, item: EncodedText | Sequence[int]) -> EncodedText:
        text = _as_text(index, item)
        self._check_len(index, len(text.ids))
        self._check(index, text)
        return text

    def _count(self, item: EncodedText) -> int:
        return len(item.ids)

    def _check(self, index: int, text: EncodedText) -> None:
        contract = self.contract
        _check_range(index, text.ids, contract.vocab_size, "token id")
        _check_range(index, text.token_type_ids or (), contract.type_vocab_size, "token type")
        if contract.end_token_id is not None and contract.end_token_id not in text.ids:
            raise OptionError(f"Text {index} has no end token ({contract.end_token_id}), at which this model answers.")
        if contract.token_type_ids == "none" and text.token_type_ids is not None and any(text.token_type_ids):
            raise OptionError(f"Text {index} has token_type_ids, but the package's model was compiled without.")
        if contract.token_type_ids == "required" and text.token_type_ids is None:
            raise OptionError(f"Text {index} has no token_type_ids, which this model needs: pass text, or add them.")

    def _pack(self, items: Sequence[EncodedText], length: int) -> dict[str, np.ndarray]:
        ids, mask, token_types = np.zeros((3, len(items), length), np.int64)
        for row, text in enumerate(items):
            place = self._place(len(text.ids), length)
            ids[row, place] = text.ids
            mask[row, place] = 1 if text.mask is None else text.mask
            if text.token_type_ids is not None:
                token_types[row, place] = text.token_type_ids
        inputs = {"input_ids": ids, "attention_mask": mask}
        if _TOKEN_TYPE_IDS in self._program.inputs:
            inputs[_TOKEN_TYPE_IDS] = token_types
        return inputs

    def _unpadded(self, item: EncodedText, row: np.ndarray) -> np.ndarray:
        """The states of a text's tokens; a vector stays as it is."""
        return row if row.ndim == 1 else row[self._place(len(item.ids), len(row))]

    def _place(self, count: int, length: int) -> slice:
        return slice(length - count, length) if self.contract.padding_side == "left" else slice(count)
