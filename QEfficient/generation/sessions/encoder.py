"""Encoders and classifiers over a program: picks the length, groups the inputs, puts the results in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Literal

import numpy as np

from QEfficient.contract import Count
from QEfficient.errors import CapacityError, NumericError, OptionError
from QEfficient.generation.programs.program import Program
from QEfficient.generation.prompts import token_ids
from QEfficient.generation.sessions.retained import check_names, not_as_described
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
        return EncodedText(ids)
    token_types = token_ids(token_types, f"The token types of text {index}")
    if len(token_types) != len(ids):
        raise OptionError(f"Text {index} has {len(ids)} tokens and {len(token_types)} token types.")
    return EncodedText(ids, token_types)


def _check_range(index: int, values: Sequence[int], size: int | None, what: str) -> None:
    size = _MOST_IDS if size is None else size
    unknown = [value for value in values if not 0 <= value < size]
    if unknown:
        raise OptionError(
            f"Text {index} has the {what} {unknown[0]}, and the model's go from 0 to {size - 1}. Was it encoded with "
            "another model's tokenizer?"
        )


class EncoderSession:
    """Sequences of any mix of lengths, up to the longest compiled one. For any number of threads."""

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
        self.contract = contract
        self._program, self._output = program, output
        self._lock = Lock()
        check_names(program, _REQUIRED, frozenset({_TOKEN_TYPE_IDS}), output)
        self._has_static_shapes = program.shapes is not None or fixed_len is not None
        if program.shapes is not None:
            self._check_shapes({shape["input_ids"] for shape in program.shapes})

    def _check_shapes(self, shapes: set[tuple[int, ...]]) -> None:
        contract = self.contract
        if shapes != {(contract.batch_size, length) for length in contract.seq_lens}:
            raise not_as_described(
                self._program,
                f"it takes {sorted(shapes)}, expected batch_size={contract.batch_size} and "
                f"seq_lens={list(contract.seq_lens)}",
            )

    def run(self, texts: Sequence[EncodedText | Sequence[int]]) -> np.ndarray:
        """Results of all sequences in their order: ``[n, ...]``, or ``[n, longest, hidden]`` of hidden states.

        Raises:
            CapacityError: a sequence is empty, too long, or of a length that cannot run.
            NumericError: a result is no number.
            OptionError: a sequence is none, or lacks an input or a token that the model needs.
        """
        if not isinstance(texts, Sequence) or isinstance(texts, str | bytes):
            raise OptionError(f"texts must be a list of encoded texts, got a {type(texts).__name__}.")
        if not texts:
            raise CapacityError("No text was passed.")
        sequences = [_as_text(index, text) for index, text in enumerate(texts)]
        lengths = [self._run_len(index, text) for index, text in enumerate(sequences)]
        longest = max(len(text.ids) for text in sequences)
        results: list[np.ndarray] = [np.empty(0)] * len(sequences)
        for group in self._groups(lengths):
            rows = self._run_group([sequences[index] for index in group], lengths[group[-1]])
            for index, row in zip(group, rows, strict=True):
                results[index] = row if row.ndim == 1 else self._unpadded(row, len(sequences[index].ids), longest)
        outputs = np.stack(results)
        if not np.isfinite(outputs.sum()):
            self._check_finite(outputs)
        return outputs

    def _check_finite(self, outputs: np.ndarray) -> None:
        is_finite = np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1)
        if not is_finite.all():
            raise NumericError(
                f"The result of text {int(is_finite.argmin())} holds NaN or infinity. The model overflows, or the "
                "checkpoint is damaged. On cpu try precision='fp32'; on a card run `qefficient verify`."
            )

    def _groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Sequences that run together: of one length where there is no padding."""
        groups: list[list[int]] = []
        for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
            fits = bool(groups) and len(groups[-1]) < self.contract.batch_size
            if fits and (self.contract.padding_side is not None or lengths[groups[-1][0]] == lengths[index]):
                groups[-1].append(index)
            else:
                groups.append([index])
        return groups

    def _run_len(self, index: int, text: EncodedText) -> int:
        """The length to run a sequence at."""
        self._check(index, text)
        contract, count = self.contract, len(text.ids)
        if contract.padding_side is not None:
            return next(length for length in contract.seq_lens if count <= length)
        if count < contract.min_len:
            raise CapacityError(
                f"Text {index} has {count} tokens, and this package's graph is for {contract.min_len} or more; compile "
                f"with seq_len={count} too."
            )
        if count in contract.seq_lens or not self._has_static_shapes:
            return count
        raise CapacityError(
            f"Text {index} has {count} tokens, and this model runs texts at exactly their length, because "
            f"{contract.why_not_padded}. Compiled are {list(contract.seq_lens)}; compile with seq_len={count} too."
        )

    def _check(self, index: int, text: EncodedText) -> None:
        contract = self.contract
        if not text.ids:
            raise CapacityError(f"Text {index} is empty: it has no token.")
        if len(text.ids) > contract.seq_lens[-1]:
            raise CapacityError(
                f"Text {index} has {len(text.ids)} tokens and the longest compiled seq_len is "
                f"{contract.seq_lens[-1]}. Compile with seq_len={len(text.ids)} or more, or shorten the text; nothing "
                "is cut silently."
            )
        _check_range(index, text.ids, contract.vocab_size, "token id")
        _check_range(index, text.token_type_ids or (), contract.type_vocab_size, "token type")
        if contract.end_token_id is not None and contract.end_token_id not in text.ids:
            raise OptionError(f"Text {index} has no end token ({contract.end_token_id}), at which this model answers.")
        if contract.token_type_ids == "none" and text.token_type_ids is not None and any(text.token_type_ids):
            raise OptionError(f"Text {index} has token_type_ids, but the package's model was compiled without.")
        if contract.token_type_ids == "required" and text.token_type_ids is None:
            raise OptionError(f"Text {index} has no token_type_ids, which this model needs: pass text, or add them.")

    def _run_group(self, texts: Sequence[EncodedText], length: int) -> np.ndarray:
        """``[n, ...]`` of at most ``batch_size`` sequences, padded to ``length``."""
        num_rows = self.contract.batch_size if self._program.shapes is not None else len(texts)
        ids, mask, token_types = np.zeros((3, num_rows, length), np.int64)
        for row in range(num_rows):
            # Idle rows repeat the first sequence: an empty one has no mean and no softmax.
            text = texts[row] if row < len(texts) else texts[0]
            place = self._place(len(text.ids), length)
            ids[row, place] = text.ids
            mask[row, place] = 1
            if text.token_type_ids is not None:
                token_types[row, place] = text.token_type_ids
        inputs = {"input_ids": ids, "attention_mask": mask}
        if _TOKEN_TYPE_IDS in self._program.inputs:
            inputs[_TOKEN_TYPE_IDS] = token_types
        with self._lock:
            output = self._program.run(inputs, [self._output])[self._output]
            return np.array(output[: len(texts)], np.float32)

    def _place(self, count: int, length: int) -> slice:
        return slice(length - count, length) if self.contract.padding_side == "left" else slice(count)

    def _unpadded(self, states: np.ndarray, count: int, longest: int) -> np.ndarray:
        """The states of a sequence's tokens, ``[longest, hidden]`` with zeros after them."""
        return np.pad(states[self._place(count, len(states))], ((0, longest - count), (0, 0)))

    def close(self) -> None:
        """Release memory and devices, after the current run. Closing again does nothing."""
        with self._lock:
            self._program.close()
