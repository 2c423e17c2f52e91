"""The coverage table, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from architectures.tiny import OTHER_HEAD

TITLES = {
    "causal_lm": "Causal language models",
    "seq2seq": "Sequence to sequence",
    "sequence_classification": "Sequence classification",
    "text_encoder": "Text encoders",
    "image_text": "Image and text to text",
    "ctc": "Speech to text with CTC",
    "speech_seq2seq": "Speech to text, encoder and decoder",
    "text_encoder_other_head": "Text encoders saved by another head",
    "causal_lm_other_head": "Causal language models saved by a multimodal head",
}
TARGETS = {"cpu": "cpu", "cloud-ai-100-sim": "card (simulated)"}
JSON_FILE, PAGE_FILE = "coverage.json", "coverage.md"

_INTRODUCTION = """# Coverage

Every architecture that transformers ships for text, as a tiny random model that keeps what is odd about the real one,
compiled in float32 and compared with Hugging Face. `make coverage` makes this page; [coverage.json](coverage.json) has
the same for programs.

- Models that generate: greedy tokens of three prompts of 5, 37 and 70 tokens, 32 new ones each, all equal. Prompts are
  cut into chunks of 24 tokens, and there are two slots for the three. The margin is the smallest distance between the
  two greatest logits: what a wrong computation would have to stay below.
- Classifiers and encoders: the same three texts in batches of two, against each text alone. The distance is the
  greatest difference in parts of the greatest value, at most 1e-3.
- Models that read images: greedy tokens of prompts with one image, with another size and with two, and of text alone,
  8 new ones each; on the card the images have the compiled size. Images are drawn, and read by the models' processors.
- Speech models: tones of three lengths, or random features, in batches of two against each alone: distances of logits
  with CTC, 24 greedy tokens of a decoder. Models that padding changes have a package for each length on the card.
- Checkpoints of another head: what a masked language model, an encoder with its decoder or a model that also sees has
  saved, loaded as a text encoder or a causal language model, against what transformers loads from the same folder.
- "state" is what the layers keep between steps, see [adding a state kind](adding_a_state_kind.md).
"""


def write_page(rows: dict[tuple[str, str], dict[str, Any]], folder: Path, *, full: bool) -> None:
    """Write both files into ``folder``; says the counts.

    Args:
        rows: by family and model type: a row a target, or ``{"reason": ...}``.
        folder: of the documentation.
        full: whether the rows are all; else the files are left as they are.
    """
    counts = {family: _count(rows, family) for family in TITLES if any(kind == family for kind, _ in rows)}
    for family, (agree, total) in counts.items():
        print(f"{TITLES[family]}: {agree} of {total} agree on {' and '.join(TARGETS)}")
    if not full:
        return
    table = {f"{family}/{model_type}": row for (family, model_type), row in rows.items()}
    (folder / JSON_FILE).write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    parts = [_INTRODUCTION, _summary(counts), *(_section(rows, family) for family in counts)]
    (folder / PAGE_FILE).write_text("\n".join(parts), encoding="utf-8")


def read_rows(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows that :func:`write_page` wrote."""
    table = json.loads((folder / JSON_FILE).read_text(encoding="utf-8"))
    return {(family, model_type): row for key, row in table.items() for family, _, model_type in [key.partition("/")]}


def agrees(row: dict[str, Any]) -> bool:
    """Whether a model agrees on every target."""
    return "reason" not in row and all(on_target["agrees"] for on_target in row.values())


def _count(rows: dict[tuple[str, str], dict[str, Any]], family: str) -> tuple[int, int]:
    of_family = [row for (kind, _), row in rows.items() if kind == family]
    return sum(map(agrees, of_family)), len(of_family)


def _summary(counts: dict[str, tuple[int, int]]) -> str:
    lines = [f"| {TITLES[family]} | {agree} of {total} |" for family, (agree, total) in counts.items()]
    return "\n".join(["| | agree on both targets |", "| --- | --- |", *lines, ""])


def _section(rows: dict[tuple[str, str], dict[str, Any]], family: str) -> str:
    measure = "smallest margin" if family.startswith(("causal_lm", "seq2seq", "speech")) else "distance"
    saved_by = ["saved by"] if family.endswith(OTHER_HEAD) else []
    states = ["state"] if family == "causal_lm" else []
    head = ["model type", *saved_by, "class", *states, *TARGETS.values()]
    head += ["lowering on cpu", measure, "export, s", "remarks"]
    lines = [f"## {TITLES[family]}", "", _line(head), _line(["---"] * len(head))]
    lines += [_line(_cells(family, name, row)) for (kind, name), row in sorted(rows.items()) if kind == family]
    return "\n".join([*lines, ""])


def _cells(family: str, model_type: str, row: dict[str, Any]) -> list[str]:
    states = [] if family != "causal_lm" else [""]
    saved_by = [""] if family.endswith(OTHER_HEAD) else []
    if "reason" in row:
        return [f"`{model_type}`", *saved_by, "", *states, "no", "no", "", "", "", row["reason"]]
    cpu = row["cpu"]
    states = [] if family != "causal_lm" else [cpu.get("states", "")]
    marks = ["yes" if row[target]["agrees"] else "no" for target in TARGETS]
    measures = [on_target.get("margin", on_target.get("distance")) for on_target in row.values()]
    measured = [measure for measure in measures if measure is not None]
    worst = (min if "margin" in cpu else max)(measured) if measured else ""
    remarks = {on_target.get("error") or on_target.get("note") for on_target in row.values()} - {None, ""}
    if family.endswith(OTHER_HEAD):
        saved_by = [f"`{cpu['saved_by']}`" if "saved_by" in cpu else ""]
    return [
        f"`{model_type}`",
        *saved_by,
        f"`{cpu.get('class', '')}`" if "class" in cpu else "",
        *states,
        *marks,
        cpu.get("lowering", ""),
        str(worst),
        str(cpu.get("export_s", "")),
        "; ".join(sorted(map(str, remarks))),
    ]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
