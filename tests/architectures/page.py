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

_INTRODUCTION = """---
hide:
  - toc
---

# Coverage

This page lists every text, image and speech architecture of transformers. Each was built as a tiny random model that
keeps the peculiarities of the real one, compiled in float32, and compared with Hugging Face on `cpu` and on the
simulated card. `make coverage` repeats the comparison and writes this page; [coverage.json](coverage.json) has the same
data for programs.

What counts as a match:

- **Models that generate:** the greedy output for three prompts of 5, 37 and 70 tokens, 32 new tokens each, is
  identical. Prompts are read in chunks of 24 tokens, and the three share two slots. The margin is the smallest
  difference between the two largest logits at any token: an error below it changes no token.
- **Classifiers and encoders:** the results for the same three texts, in batches of two, differ from those of each text
  alone by at most 1e-3, relative to the largest value. That is the distance.
- **Models that read images:** the greedy output is identical, 8 new tokens each, for prompts with one image, with an
  image of another size, with two images, and with none. On the card, images have the compiled size.
- **Speech models:** for audio of three lengths in batches of two, CTC logits are within the same distance of those of
  each clip alone, and 24 greedy tokens of a decoder are identical. Models whose result depends on padding have one
  package per length on the card.
- **Checkpoints saved by another head:** a text encoder or causal language model that is loaded from the checkpoint of a
  masked language model, an encoder-decoder or a multimodal model matches what transformers loads from the same folder.

"State" is what the layers keep between steps; see [adding a state kind](adding_a_state_kind.md).
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
        print(f"{TITLES[family]}: {agree} of {total} match on {' and '.join(TARGETS)}")
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
    links = {family: f"[{TITLES[family]}](#{_anchor(TITLES[family])})" for family in counts}
    lines = [f"| {links[family]} | {matching} of {total} |" for family, (matching, total) in counts.items()]
    return "\n".join(["| Models | Match on both targets |", "| --- | --- |", *lines, ""])


def _anchor(title: str) -> str:
    return title.lower().replace(",", "").replace(" ", "-")


def _section(rows: dict[tuple[str, str], dict[str, Any]], family: str) -> str:
    measure = "smallest margin" if family.startswith(("causal_lm", "seq2seq", "speech")) else "distance"
    saved_by = ["saved by"] if family.endswith(OTHER_HEAD) else []
    states = ["state"] if family == "causal_lm" else []
    head = ["model type and class", *saved_by, *states, *TARGETS.values(), "lowering on cpu", measure, "remarks"]
    lines = [f"## {TITLES[family]}", "", _line(head), _line(["---"] * len(head))]
    lines += [_line(_cells(family, name, row)) for (kind, name), row in sorted(rows.items()) if kind == family]
    return "\n".join([*lines, ""])


def _cells(family: str, model_type: str, row: dict[str, Any]) -> list[str]:
    states = [] if family != "causal_lm" else [""]
    saved_by = [""] if family.endswith(OTHER_HEAD) else []
    if "reason" in row:
        return [f"`{model_type}`", *saved_by, *states, "no", "no", "", "", row["reason"]]
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
        "<br>".join(f"`{name}`" for name in (model_type, cpu.get("class")) if name),
        *saved_by,
        *states,
        *marks,
        cpu.get("lowering", ""),
        str(worst),
        "; ".join(sorted(map(str, remarks))),
    ]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
