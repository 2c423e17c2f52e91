"""Runs packages, under upstream's names: results are those of :mod:`QEfficient.generation.results`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from QEfficient.compat.functional import cloud_ai_100_exec_kv
from QEfficient.compat.moved import names_of
from QEfficient.errors import LifecycleError
from QEfficient.generation.prompts import read_prompts
from QEfficient.generation.results import CloudAI100ExecInfo, PerfMetrics

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from QEfficient.option_types import GenerateArgs

__all__ = [
    "CloudAI100ExecInfo",
    "CloudAI100ExecInfoNew",
    "PerfMetrics",
    "TextGeneration",
    "check_batch_size_and_num_prompts",
    "cloud_ai_100_exec_kv",
    "fix_prompts",
    "get_compilation_dims",
    "get_input_prompts",
    "read_prompts_txt_file",
]

__getattr__ = names_of("QEfficient.generation.text_generation_inference")

CloudAI100ExecInfoNew = CloudAI100ExecInfo
Prompts = str | list[str]


class TextGeneration:
    """A package and a tokenizer, as one object.

    Args:
        tokenizer: of transformers; None: the package's.
        qpc_path: the folder that ``compile`` returned.
        full_batch_size: upstream's; the package says it.
        ctx_len: upstream's; the package says it.
        device_id: the cards to run on.
        options: as of :func:`QEfficient.cloud_ai_100_exec_kv`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        qpc_path: str | os.PathLike[str],
        full_batch_size: int | None = None,
        ctx_len: int | None = None,
        device_id: Sequence[int] | None = None,
        **options: Unpack[GenerateArgs],
    ):
        self._tokenizer, self._qpc_path, self._device_id, self._options = tokenizer, qpc_path, device_id, options
        self._last: CloudAI100ExecInfo | None = None

    def generate(
        self,
        prompt: Prompts,
        generation_len: int | None = None,
        stream: bool = True,
        **options: Unpack[GenerateArgs],
    ) -> CloudAI100ExecInfo:
        """Generate from prompts. Options are those of :func:`QEfficient.cloud_ai_100_exec_kv`."""
        both: GenerateArgs = {**self._options, **options}
        self._last = cloud_ai_100_exec_kv(
            self._tokenizer,
            self._qpc_path,
            prompt,
            device_id=self._device_id,
            generation_len=generation_len,
            stream=stream,
            **both,
        )
        return self._last

    @property
    def perf_metrics(self) -> PerfMetrics:
        """How fast the last run was.

        Raises:
            LifecycleError: nothing ran yet.
        """
        if self._last is None:
            raise LifecycleError("Nothing ran yet: call generate() first.")
        return self._last.perf_metrics


def get_compilation_dims(qpc_path: str | os.PathLike[str]) -> tuple[int, int, int | None]:
    """Batch size, context length and ``full_batch_size`` of a package; of a QPC, by the files beside it."""
    from QEfficient.compile.specializations import FILE, read_specializations

    folder = Path(qpc_path)
    place = folder if (folder / FILE).is_file() else folder.parent
    first = read_specializations(place / FILE)[0].symbols
    return first.get("batch_size", 1), first.get("ctx_len", 0), first.get("full_batch_size")


def get_input_prompts(prompt: Prompts | None, prompts_txt_file_path: str | os.PathLike[str] | None) -> list[str]:
    """Prompts from a text, a list or a file: see :func:`QEfficient.generation.prompts.read_prompts`."""
    return read_prompts(prompt, prompts_txt_file_path)


def read_prompts_txt_file(prompts_txt_file_path: str | os.PathLike[str]) -> list[str]:
    """Prompts from a file with one per line."""
    return read_prompts(None, prompts_txt_file_path)


def fix_prompts(prompt: Sequence[str], batch_size: int, full_batch_size: int | None = None) -> list[str]:
    """The prompts as they are: any number runs over the slots of a package, so that none is repeated or dropped."""
    return list(prompt)


def check_batch_size_and_num_prompts(
    prompt: Prompts | None, prompts_txt_file_path: str | os.PathLike[str] | None, batch_size: int
) -> list[str]:
    """The prompts of a text, a list or a file; any number fits any batch size."""
    return get_input_prompts(prompt, prompts_txt_file_path)
