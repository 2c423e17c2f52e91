"""The built documentation, as a browser gets it."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from docs.blocks import ROOT, SOURCE, prose

PAGES = sorted(path.stem for path in SOURCE.glob("*.md"))
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_ELEMENT = re.compile(r"<h([1-6])[^>]*>(.*?)</h\1>", re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        check=True,
    )
    return folder


def page(site: Path, name: str) -> str:
    return (site / ("index.html" if name == "index" else f"{name}/index.html")).read_text(encoding="utf-8")


def text(markup: str) -> str:
    """What is read, without marks of code and links."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", markup)).replace("\u00b6", "").split())


@pytest.mark.parametrize("name", PAGES)
def test_no_fence_is_left_in_a_page(name: str, site: Path) -> None:
    assert "```" not in page(site, name)


@pytest.mark.parametrize("name", PAGES)
def test_every_heading_is_in_its_page(name: str, site: Path) -> None:
    written = [
        re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in _HEADING.findall(prose(SOURCE / f"{name}.md"))
    ]
    shown = {text(inner) for _, inner in _ELEMENT.findall(page(site, name))}
    assert [title for title in written if " ".join(title.split()) not in shown] == []


@pytest.mark.parametrize("name", PAGES)
def test_links_between_pages_lead_to_places_that_exist(name: str, site: Path) -> None:
    here = site if name == "index" else site / name
    for link in re.findall(r'href="([^"]+)"', page(site, name)):
        target, _, anchor = unquote(html.unescape(link)).partition("#")
        if ":" in target or target.startswith("//"):
            continue
        path = (here / target).resolve()
        path = path / "index.html" if path.is_dir() else path
        assert path.is_file(), f"{name}: {link}"
        if anchor and path.suffix == ".html":
            assert re.search(rf'(?:id|name)="{re.escape(anchor)}"', path.read_text(encoding="utf-8")), f"{name}: {link}"
