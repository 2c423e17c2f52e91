"""Writes the tables of docs/source/coming_from_upstream.md: ``python -m upstream.page`` (in tests/)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path

from upstream.names import PATHS
from upstream.usage import Usage
from upstream.usages import USAGES

from QEfficient.compat import moved
from QEfficient.qaic_config import QaicConfig

PAGE = Path(__file__).parents[2] / "docs" / "source" / "coming_from_upstream.md"
_TABLE = re.compile(r"(?<=^<!-- table: )(?P<name>[a-z ]+) -->\n.*?(?=^<!-- end -->$)", re.MULTILINE | re.DOTALL)


def written(page: str) -> str:
    """The page with the tables of the code."""
    return _TABLE.sub(lambda match: f"{match['name']} -->\n\n{_lines(match['name'])}\n\n", page)


def _lines(name: str) -> str:
    return "\n".join(_TABLES[name]() if name in _TABLES else _usages(USAGES[name]))


def _head(*titles: str) -> Iterator[str]:
    yield "| " + " | ".join(titles) + " |"
    yield "| " + " | ".join("---" for _ in titles) + " |"


def _usages(usages: Iterable[Usage]) -> Iterator[str]:
    yield from _head("There", "Here")
    for usage in usages:
        yield f"| `{_cell(usage.name)}` | {_cell(_outcome(usage))} |"


def _outcome(usage: Usage) -> str:
    if usage.note:
        return usage.note
    if usage.answer:
        return f"an error that names `{_plain(usage.answer)}`"
    if "no effect" in usage.says:
        return "no effect, and a warning that says why"
    return "the same, with a warning" if usage.says else "the same"


def _plain(pattern: str) -> str:
    return pattern.replace("\\", "").partition("|")[0]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _names() -> Iterator[str]:
    yield from _head("Module", "Names")
    for module, names in PATHS.items():
        yield f"| `{module}` | {', '.join(f'`{name}`' for name in names.split())} |"


def _moved() -> Iterator[str]:
    yield from _head("There", "Here")
    named = {f"{module}.{name}": why for module, names in moved.NAMES.items() for name, why in names.items()}
    for path, why in sorted({**moved.MODULES, **named}.items()):
        yield f"| `{path.replace('QEFFFlux', 'QEffFlux').replace('QEFFWan', 'QEffWan')}` | {_cell(why)} |"


def _keys() -> Iterator[str]:
    yield from _head("Key", "Default", "Meaning")
    for item in fields(QaicConfig):
        default = "" if item.default is MISSING else repr(item.default)
        yield f"| `{item.name}` | `{default}` | {_cell(QaicConfig.help(item.name))} |"


_TABLES = {"paths": _names, "moved": _moved, "keys": _keys}

if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
