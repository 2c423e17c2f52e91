"""The methods that search engines call, with the same arguments on models and on packages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

import numpy as np

from QEfficient.generation.text_options import EncodeOptions, PredictOptions, RankOptions
from QEfficient.generation.texts import Texts
from QEfficient.option_docs import lists_options
from QEfficient.option_types import EncodeArgs, PredictArgs, RankArgs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ranking = list[tuple[int, float]] | list[tuple[int, float, str]]
"""Each document's index and score, and the document where it is asked for."""


class EncodesTexts(ABC):
    """Makes vectors of texts."""

    @abstractmethod
    @lists_options(EncodeOptions)
    def encode(
        self, texts: Texts, *, tokenizer: PreTrainedTokenizerBase | None = None, **options: Unpack[EncodeArgs]
    ) -> np.ndarray:
        """Vectors of texts, as sentence-transformers' ``encode``: with the folder's prompts and maximum length.

        Texts run in batches of like length; results are in the order of the texts.

        Args:
            texts: a text, or a list of texts, pairs of texts or token ids. A model takes ``device_ids`` after them, as
                ``generate`` does.
            tokenizer: default: that of the model or the package.
            options: see :class:`QEfficient.generation.text_options.EncodeOptions`.

        Returns:
            float32 ``[n, D]``, ``[D]`` of a single text; with ``convert_to_tensor`` a tensor.

        Raises:
            LifecycleError: nothing was compiled yet.
            CapacityError: a text is empty, or too long and not to be cut.
            OptionError: an option is unknown, or the model gives hidden states.
        """


class ScoresTexts(ABC):
    """Makes scores of texts or pairs of texts."""

    @property
    @abstractmethod
    def labels(self) -> list[str]:
        """The label of each logit, in order."""

    @abstractmethod
    def scores(self, logits: np.ndarray) -> np.ndarray:
        """Scores of the logits ``[n, num_labels]`` of ``generate``: by the activation that the checkpoint stores, else
        by the problem type probabilities, or the values of a regression.

        Raises:
            LifecycleError: nothing was compiled yet.
            OptionError: they have another shape, or are no numbers.
        """

    @abstractmethod
    @lists_options(PredictOptions)
    def predict(
        self, pairs: Texts, *, tokenizer: PreTrainedTokenizerBase | None = None, **options: Unpack[PredictArgs]
    ) -> np.ndarray:
        """Scores of pairs of texts, or of texts, as sentence-transformers' ``CrossEncoder.predict``.

        Args:
            pairs: a list of pairs or of texts; or one pair, a tuple of two texts. A model takes ``device_ids`` after
                them, as ``generate`` does.
            tokenizer: default: that of the model or the package.
            options: see :class:`QEfficient.generation.text_options.PredictOptions`.

        Returns:
            float32 ``[n]`` of a model with one label, else ``[n, num_labels]``; without the first axis of one pair.
            The activation is the one that the checkpoint stores, else of one label a sigmoid, and of several none.

        Raises:
            LifecycleError: nothing was compiled yet.
            CapacityError: a text is empty, or too long and not to be cut.
            OptionError: an option is unknown.
        """

    @abstractmethod
    @lists_options(RankOptions)
    def rank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **options: Unpack[RankArgs],
    ) -> Ranking:
        """Put documents in the order of how well they fit a query, with a cross-encoder of one label.

        Args:
            query: what is asked.
            documents: what may answer it. A model takes ``device_ids`` after them, as ``generate`` does.
            tokenizer: default: that of the model or the package.
            options: see :class:`QEfficient.generation.text_options.RankOptions`.

        Returns:
            Each document's index and score, with ``return_documents`` the document too, best first. The score is made
            by the activation that sentence-transformers stored with the checkpoint; without one it is between 0 and 1.

        Raises:
            LifecycleError: nothing was compiled yet.
            CapacityError: a pair is too long and not to be cut.
            OptionError: the model has several labels, or an option is unknown.
        """
