"""What the auto classes share whose models generate text: the generation config, and streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from QEfficient.base.modeling_qeff import OptionsT, PathLike, PlanT, QEFFBaseModel
from QEfficient.generation_options import GenerationOptions, StreamArguments
from QEfficient.option_docs import lists_options
from QEfficient.option_types import StreamArgs
from QEfficient.transformers.models.generation_config import (
    check_entries,
    save_generation_config,
    warn_of_ignored_entries,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Stream = bool | Callable[[str], None]


class QEFFGenerativeModel(QEFFBaseModel[PlanT, OptionsT]):
    """A model that generates text, token by token, over the state that its package keeps."""

    keeps_state = True

    def compile(self, compile_dir: PathLike | None = None, **options: Any) -> Path:
        check_entries(self._loaded())
        path = super().compile(compile_dir, **options)
        warn_of_ignored_entries(self._loaded())
        return path

    def write_side_files(self, folder: Path) -> None:
        super().write_side_files(folder)
        save_generation_config(self._loaded(), folder)

    @lists_options(GenerationOptions, StreamArguments)
    def stream(
        self,
        prompt: Any,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        generation_len: int | None = None,
        **options: Unpack[StreamArgs],
    ) -> Iterator[str]:
        """Yield the answer to one prompt as text, as it comes. Closing the iterator cancels it.

        Args:
            prompt: as of :meth:`generate`, a single one.
            tokenizer: default: the model's.
            generation_len: maximum number of new tokens.
            options: see :meth:`generate`.

        Raises:
            LifecycleError: nothing was compiled yet.
            CapacityError: the prompt is empty or does not fit.
            OptionError: an unknown or impossible option, several prompts or answers, or a streamer.
        """
        return self._stream(prompt, tokenizer, {**options, "generation_len": generation_len})

    def _stream(self, prompt: Any, tokenizer: PreTrainedTokenizerBase | None, options: dict[str, Any]) -> Iterator[str]:
        reader = self._text_tokenizer(tokenizer)
        pieces: Iterator[str] = self._open().stream(prompt, tokenizer=reader, **self._request_options(options))
        return pieces

    def _request_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """A caller's options of a request as the package takes them."""
        return options
