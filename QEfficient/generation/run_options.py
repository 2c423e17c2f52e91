"""Options of upstream's runs: of ``generate`` and ``cloud_ai_100_exec_kv``, beside those that say what an answer is."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from QEfficient.errors import OptionError
from QEfficient.generation.engine import Engine
from QEfficient.generation.programs.recording import Recorder
from QEfficient.generation.sessions.retained import RetainedSession
from QEfficient.options import require_bool
from QEfficient.store.artifacts import home
from QEfficient.store.files import user_path

logger = logging.getLogger(__name__)

_SAMPLERS = "the host samples: do_sample=True, temperature=..., top_k=..., top_p=..., min_p=..., repetition_penalty=..."
_REFUSED = {
    "artifacts": "compile(dry_run=True) writes what the compiler reads, and write_io=True what each run gets and gives",
    "profiling_type": "compile(aic_profiling_type=...) builds profiling into the program, for qaic-runner",
    "include_guided_decoding": "the card masks no tokens here: logits_processor=[...] changes the scores on the host",
    "include_sampler": f"the card does not sample here yet; {_SAMPLERS}",
    "return_pdfs": "the card does not sample here yet; logprobs=... returns probabilities",
    "sampling_params": f"the card does not sample here yet; {_SAMPLERS}",
}
_OF_PACKAGE = (
    "profiling_output_dir",
    "comp_ctx_lengths_decode",
    "comp_ctx_lengths_prefill",
    "enable_debug_logs",
    "is_tlm",
)
"""What the package says itself, and logs that a QAICInferenceSession has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """How often and how far a call of ``generate`` runs, and what it leaves behind: see
    :class:`QEfficient.generation_options.RunArguments`."""

    iteration: int = 1
    automation: bool = False
    write_io: bool = False
    write_io_dir: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.iteration, bool) or not isinstance(self.iteration, int) or self.iteration < 1:
            raise OptionError(f"iteration must be a whole number of at least 1, got {self.iteration!r}.")
        require_bool("automation", self.automation)
        require_bool("write_io", self.write_io)

    @classmethod
    def split(cls, options: Mapping[str, object]) -> tuple[RunOptions, dict[str, object]]:
        """The options of a run, and the others.

        Raises:
            OptionError: one has a wrong value, or is for what the card does not do here.
        """
        for name, instead in _REFUSED.items():
            if options.get(name) not in (None, False):
                raise OptionError(f"{name}: {instead}.")
        names = {item.name for item in fields(cls)}
        of_run: dict[str, Any] = {name: value for name, value in options.items() if name in names and value is not None}
        skipped = names | _REFUSED.keys() | {*_OF_PACKAGE}
        others = {name: value for name, value in options.items() if name not in skipped}
        run = cls(**of_run)
        if run.automation:
            others["eos_token_id"] = ()
        return run, others

    @contextmanager
    def recording(self, engine: Engine, package: Path) -> Iterator[None]:
        """Write the runs of the engine's program, if that is asked for.

        Raises:
            OptionError: the package has no such program.
            LifecycleError: requests are running.
        """
        if not self.write_io and self.write_io_dir is None:
            yield
            return
        folder = home() / "io" / package.name[:16] if self.write_io_dir is None else user_path(self.write_io_dir)
        with engine.exclusive() as session:
            if not isinstance(session, RetainedSession):
                raise OptionError("write_io is for packages that a card runs: compile for 'cloud-ai-100'.")
            recorder = Recorder(folder)
            session.record(recorder)
        try:
            yield
        finally:
            with engine.exclusive():
                session.record(None)
            recorder.finish()
            logger.warning("What the card got and gave in %d runs is in %s.", recorder.num_runs, folder)
