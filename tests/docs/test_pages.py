"""Pages and links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from docs.blocks import ALL_TEXTS, ROOT, SOURCE, anchors, blocks, links, name


@pytest.mark.parametrize("document", ALL_TEXTS, ids=name)
def test_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{name(document)} links to {link}"
        assert not anchor or anchor in anchors(target), f"{name(document)} links to {link}"


def test_links_of_the_site_stay_in_it() -> None:
    for document in SOURCE.glob("*.md"):
        assert not [link for link in links(document) if link.startswith("../")], name(document)


def test_every_page_is_in_the_navigation() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = [page for entry in config["nav"] for page in entry.values()]
    assert sorted(listed) == sorted(path.name for path in SOURCE.glob("*.md"))
    assert ROOT / config["docs_dir"] == SOURCE


def test_pages_that_messages_name_exist() -> None:
    sources = [path.read_text(encoding="utf-8") for path in ROOT.glob("QEfficient/**/*.py")]
    named = {page for source in sources for page in re.findall(r"docs/source/\w+\.md", source)}
    assert named
    assert not [page for page in named if not (ROOT / page).is_file()]


def test_paths_of_the_tree_exist() -> None:
    tree = _block_that_begins(ROOT / "CONTRIBUTING.md", "QEfficient/\n")
    parents = [ROOT]
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        paths = [parents[depth] / word for word in re.split(r" {2,}", line.strip())[0].split()]
        assert not [path for path in paths if not path.exists()], line
        parents[depth + 1 :] = [paths[0]]


def _block_that_begins(path: Path, begins: str) -> str:
    """The fenced block of a document that begins like this."""
    return next(block.text for block in blocks(path) if block.text.startswith(begins))
