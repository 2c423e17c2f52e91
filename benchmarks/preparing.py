"""Getting each system to the point where it can be asked: exported once, loaded in its own process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.rounds import Results
from benchmarks.settings import Settings
from benchmarks.systems import System
from benchmarks.worker import Worker, WorkerFailed
from QEfficient.progress import stage
from QEfficient.store.digests import hash_file

_GIB = 1 << 30


def prepare(systems: list[System], checkpoint: Path, settings: Settings, results: Results) -> list[System]:
    """Let every installed system export the checkpoint in its own way, one after the other.

    Returns:
        Those that can be loaded; ``results.failures`` says what became of the others.
    """
    ready = []
    for system in systems:
        if system.version is None:
            results.failures[system.name] = f"not installed: pip install {system.distribution}"
            continue
        try:
            with stage("Preparing", f"{system.name} for {checkpoint.name}"):
                _prepare_one(system, checkpoint, settings)
            ready.append(system)
        except WorkerFailed as error:
            results.failures[system.name] = f"could not prepare: {error}"
    return ready


def exported(system: System, checkpoint: Path, settings: Settings) -> Path:
    """The folder that belongs to a system and a checkpoint."""
    return settings.work_dir / "exported" / checkpoint.name / system.name


def _prepare_one(system: System, checkpoint: Path, settings: Settings) -> None:
    # Ours knows by itself whether a package is current, down to the library's own source.
    if system.is_ours:
        _worker(system, "prepare", checkpoint, settings).close()
    if system.is_ours or not system.exports:
        return
    folder = exported(system, checkpoint, settings)
    mark = folder.with_name(f"{folder.name}.json")
    recipe = _recipe(system, checkpoint)
    if mark.is_file() and mark.read_text() == recipe:
        return
    mark.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _worker(system, "prepare", checkpoint, settings).close()
    mark.write_text(recipe)


def _recipe(system: System, checkpoint: Path) -> str:
    """Everything that decides what a peer's export looks like."""
    spec = find_spec(system.module)
    assert spec is not None
    assert spec.origin is not None
    how = hash_file(Path(spec.origin))[0]
    return json.dumps([system.version, system.options, how, checkpoint.stat().st_mtime_ns])


def _worker(system: System, maker: str, checkpoint: Path, settings: Settings) -> Worker:
    arguments: dict[str, Any] = {
        "checkpoint": checkpoint,
        "folder": exported(system, checkpoint, settings),
        "num_threads": settings.num_threads,
        **system.options,
    }
    log = settings.work_dir / "logs" / f"{checkpoint.name}.{system.name}.log"
    return Worker(f"{system.module}:{maker}", arguments, log, settings.num_threads)


def groups(systems: list[System], num_weights: int, memory_bytes: int) -> list[list[System]]:
    """Systems that fit into memory together; all of ours are in every group, so that each peer has met them.

    A peer that fits with none still gets a group, since trying tells more than refusing.
    """
    ours = [system for system in systems if system.is_ours]
    peers = [system for system in systems if not system.is_ours]
    base = sum(_bytes(system, num_weights) for system in ours)
    made: list[list[System]] = []
    used = float(memory_bytes)
    for peer in peers:
        size = _bytes(peer, num_weights)
        if not made or used + size > memory_bytes:
            made.append([*ours])
            used = base
        made[-1].append(peer)
        used += size
    return made or [ours]


def _bytes(system: System, num_weights: int) -> float:
    return num_weights * system.bytes_per_weight + _GIB


@contextmanager
def loaded(
    systems: list[System], checkpoint: Path, settings: Settings, results: Results
) -> Iterator[dict[str, Worker]]:
    """The systems' workers by name, each ready to answer; those that cannot load are in ``results.failures``."""
    with ExitStack() as stack:
        workers = {}
        for system in systems:
            if system.name in results.failures:
                continue
            try:
                with stage("Loading", f"{system.name} for {checkpoint.name}"):
                    workers[system.name] = stack.enter_context(_worker(system, "Runner", checkpoint, settings))
            except WorkerFailed as error:
                results.failures[system.name] = f"could not load: {error}"
        yield workers
