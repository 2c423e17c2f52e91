"""What one run of the benchmark is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The same for every system and shape."""

    work_dir: Path
    """Checkpoints, exports, packages and logs; kept for the next run."""
    num_rounds: int
    num_new_tokens: int
    prompt_len: int
    num_threads: int
    memory_bytes: int
    """The most that all loaded systems may hold together."""
