"""Reads the documentation: its fenced blocks, its links, its headings and its tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "docs" / "source"
DOCUMENTS = sorted([ROOT / "README.md", *SOURCE.glob("*.md")])
"""What is written for users; every example in it is run."""
ALL_TEXTS = [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]

_REMARK = r"(?:^<!-- (?P<remark>no-run: [^\n]*) -->\n)?"
"""Before a fence: on it, the site's Markdown would not take it for one."""
_FENCE = re.compile(_REMARK + r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
_SNIPPET = re.compile(r'--8<-- "(?P<path>[^"]+)"\n')
_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\((?P<to>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<title>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    path: Path
    line: int
    """Where its first line of content is, from 1."""
    language: str
    remark: str
    """Why it is not run, or what follows the language in the fence."""
    text: str

    @property
    def snippet(self) -> str | None:
        """The file whose content the site shows in its place."""
        match = _SNIPPET.fullmatch(self.text)
        return match and match["path"]

    @property
    def is_run(self) -> bool:
        """Whether nobody exempted it; the tests of examples run the files of snippets."""
        return self.snippet is None and not self.remark.startswith("no-run")

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def name(path: Path) -> str:
    """For test ids."""
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a document, in order."""
    content = path.read_text(encoding="utf-8")
    return [_block(path, content, match) for match in _FENCE.finditer(content)]


def _block(path: Path, content: str, match: re.Match[str]) -> Block:
    language, _, remark = match["info"].strip().partition(" ")
    line = content.count("\n", 0, match.start("text")) + 1
    return Block(path, line, language, match["remark"] or remark.strip(), match["text"])


def prose(path: Path) -> str:
    """A document without its fenced blocks."""
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def links(path: Path) -> list[str]:
    """Where its links lead, as written."""
    return [match["to"] for match in _LINK.finditer(prose(path))]


def anchors(path: Path) -> set[str]:
    """What its headings can be linked by."""
    titles = (match["title"] for match in _HEADING.finditer(prose(path)))
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


def section(path: Path, marker: str) -> str:
    """What stands between ``<!-- marker -->`` and the next blank line after its content."""
    content = path.read_text(encoding="utf-8")
    _, found, rest = content.partition(f"<!-- {marker} -->\n")
    assert found, f"{name(path)} has no <!-- {marker} -->"
    return rest.strip("\n").split("\n\n", 1)[0]


def commands(block: Block) -> list[str]:
    """The commands of a shell block, without prompts, comments, and what a console block shows of their output."""
    text = block.text.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [line for line in lines if line and not line.startswith("#")]
