"""Late interaction: a vector for each token, and the sum over a query's tokens of each one's best match (MaxSim)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from QEfficient.contract import Count, Range
from QEfficient.errors import CapacityError, OptionError
from QEfficient.generation.texts import EncodedText

Token = Annotated[int, Range(0)]
_PREFIX_PLACE = 1
"""Of the token that says what a text is: after the first, which the tokenizer adds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LateRecord:
    """How a model was trained to read queries and documents."""

    query_token: Token | None
    """Put into every query, after its first token."""
    document_token: Token | None
    query_len: Count
    """Tokens of a query with what fills it up."""
    filling: Token | None
    """Fills up queries; its vectors count. None: they stay as they are."""
    attends_to_filling: bool
    skipped: tuple[Token, ...]
    """Tokens of documents whose vectors do not count."""

    def query(self, index: int, text: EncodedText) -> EncodedText:
        """A query as the model takes it.

        Raises:
            CapacityError: it is too long.
        """
        ids = _with_prefix(text.ids, self.query_token)
        if self.filling is None:
            return EncodedText(ids)
        if len(ids) > self.query_len:
            raise CapacityError(
                f"Query {index} has {len(ids)} tokens, and the model was trained with {self.query_len}: shorten it; "
                "nothing is cut silently."
            )
        num_added = self.query_len - len(ids)
        mask = None if self.attends_to_filling else [1] * len(ids) + [0] * num_added
        return EncodedText([*ids, *[self.filling] * num_added], mask=mask)

    def document(self, text: EncodedText) -> EncodedText:
        """A document as the model takes it."""
        return EncodedText(_with_prefix(text.ids, self.document_token))

    def counted(self, text: EncodedText, vectors: np.ndarray) -> np.ndarray:
        """The vectors of a document that count."""
        return vectors[~np.isin(text.ids, self.skipped)]


def _with_prefix(ids: Sequence[int], token: int | None) -> list[int]:
    return [*ids] if token is None else [*ids[:_PREFIX_PLACE], token, *ids[_PREFIX_PLACE:]]


def max_sim(queries: Sequence[np.ndarray], documents: Sequence[np.ndarray]) -> np.ndarray:
    """Scores ``[queries, documents]``: for each vector of a query its greatest product with one of the document,
    summed.

    Args:
        queries: ``[tokens, D]`` each.
        documents: the same.

    Raises:
        OptionError: they are no such arrays, or of several widths.
    """
    both = [np.asarray(each) for each in (*queries, *documents)]
    if not len(queries) or not len(documents):
        raise OptionError("score_retrieval() needs at least one query and one document.")
    if any(each.ndim != 2 or not len(each) or each.shape[1] != both[0].shape[1] for each in both):
        raise OptionError(
            f"score_retrieval() takes arrays [tokens, {both[0].shape[-1]}] as encode_queries() and encode_documents() "
            f"return them, got {sorted({each.shape for each in both})[:3]}."
        )
    ends = np.cumsum([len(document) for document in documents])[:-1]
    stacked = np.concatenate(list(documents))
    scores = np.empty((len(queries), len(documents)), np.float32)
    for row, query in enumerate(queries):
        products = np.split(query @ stacked.T, ends, axis=1)
        scores[row] = [each.max(1).sum() for each in products]
    return scores
