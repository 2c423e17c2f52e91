"""``python -m architectures.coverage``: every architecture on every target that runs anywhere, against Hugging Face.

Rows are kept as they come, so that a run that was stopped goes on where it was; rows that an earlier version of the
library made are made again. ``--only`` and ``--family`` choose; ``--again`` makes the chosen rows anew. A run of one
family leaves the rows of the others on the page as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from architectures.page import read_rows, write_page
from architectures.tiny import UNABLE, UNREADABLE, families, other_heads
from architectures.workers import Answer, ask_all
from image_text_models import MODEL_TYPES, SKIPPED

TARGETS = ("cpu", "cloud-ai-100-sim")
ROOT = Path(__file__).parents[2]
ROWS = ROOT / "build" / "coverage"
DOCS = ROOT / "docs" / "source"
TIMEOUT_S = 300
_REASONS = UNABLE | UNREADABLE | {("image_text", model_type): reason for model_type, reason in SKIPPED.items()}


def check_model(family: str, model_type: str) -> Answer:
    """A row a target; runs in a worker."""
    from architectures import cases
    from architectures.workers import describe

    home = tempfile.mkdtemp(prefix="qeff-coverage-")
    os.environ["QEFF_HOME"] = f"{home}/store"
    rows = {}
    try:
        for target in TARGETS:
            try:
                rows[target] = cases.check(family, model_type, target)
            except Exception as error:  # noqa: BLE001 whatever a model raises is what the row says
                rows[target] = {"agrees": False, "error": describe(error)}
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return rows


def main() -> None:
    """See the module."""
    asked = _arguments()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    chosen = [
        (family, model_type)
        for family, model_types in _families().items()
        for model_type in model_types
        if asked.family in (None, family) and (not asked.only or model_type in asked.only.split(","))
    ]
    stamp = _stamp()
    todo = [case for case in chosen if case not in _REASONS and (asked.again or not _is_current(case, stamp))]
    if not asked.page:
        _run(todo, stamp, asked.workers)
    rows = _rows()
    if asked.family:
        others = {case: row for case, row in read_rows(DOCS).items() if case[0] != asked.family}
        rows = others | {case: row for case, row in rows.items() if case[0] == asked.family}
    shown = {case: rows[case] for case in chosen} if asked.only else rows
    write_page(shown, DOCS, full=not asked.only)


def _families() -> dict[str, list[str]]:
    seeing = {"image_text": sorted(MODEL_TYPES)}
    return families() | seeing | {family: sorted(model_types) for family, model_types in other_heads().items()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make coverage", description=__doc__)
    parser.add_argument("--family", choices=list(_families()))
    parser.add_argument("--only", default="", help="model types, with commas")
    parser.add_argument("--again", action="store_true", help="make rows anew that are there")
    parser.add_argument("--page", action="store_true", help="write the page from the rows that there are")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def _run(todo: list[tuple[str, str]], stamp: dict[str, str], num_workers: int) -> None:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    ROWS.mkdir(parents=True, exist_ok=True)
    with Progress(*columns) as progress:
        task = progress.add_task("", total=len(todo))
        for case, answer in ask_all(check_model, todo, num_workers, TIMEOUT_S):
            rows = {target: {"agrees": False, **answer} for target in TARGETS} if "error" in answer else answer
            _file(case).write_text(json.dumps({"stamp": stamp, "rows": rows}, indent=1))
            for target, row in rows.items():
                if not row["agrees"]:
                    progress.console.print(
                        f"{case[0]} {case[1]} on {target}: {row.get('error', 'differs')}", markup=False
                    )
            progress.update(task, advance=1, description=case[1])


def _stamp() -> dict[str, str]:
    """What decides a row: the library and the programs under it."""
    from importlib.metadata import version

    from QEfficient.store.source_version import source_version

    packages = ("torch", "transformers", "openvino", "onnxruntime")
    return {"library": source_version()} | {name: version(name) for name in packages}


def _file(case: tuple[str, str]) -> Path:
    return ROWS / f"{case[0]}.{case[1]}.json"


def _is_current(case: tuple[str, str], stamp: dict[str, str]) -> bool:
    return _file(case).is_file() and json.loads(_file(case).read_text())["stamp"] == stamp


def _rows() -> dict[tuple[str, str], dict[str, Any]]:
    """All rows that there are, by family and model type; what cannot run says why."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for family, model_types in _families().items():
        for model_type in model_types:
            case = (family, model_type)
            if case in _REASONS:
                rows[case] = {"reason": _REASONS[case]}
            elif _file(case).is_file():
                rows[case] = json.loads(_file(case).read_text())["rows"]
    return rows


if __name__ == "__main__":
    main()
