"""What the auto classes share whose models generate text: the generation config, and streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from QEfficient.base.modeling_qeff import OptionsT, PathLike, PlanT, QEFFBaseModel
from QEfficient.transformers.models.generation_config import (
    check_entries,
    save_generation_config,
    warn_of_ignored_entries,
)

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

    def stream(self, prompt: Any, **options: Any) -> Iterator[str]:
        """Yield the answer to one prompt as text, as it comes. Options are those of :meth:`generate`."""
        options["tokenizer"] = self._text_tokenizer(options.get("tokenizer"))
        pieces: Iterator[str] = self._open().stream(prompt, **self._request_options(options))
        return pieces

    def _request_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """A caller's options of a request as the package takes them."""
        return options
