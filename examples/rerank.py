"""Rank documents for a query with a cross-encoder, which reads query and document together.

    python examples/rerank.py
    python examples/rerank.py "how many people live in Berlin?" --model cross-encoder/ms-marco-MiniLM-L6-v2

The default model is tiny, and knows a few questions about cities: see tiny_models/README.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from QEfficient import QEFFAutoModelForSequenceClassification

TINY = Path(__file__).parent / "tiny_models" / "reranker"
DOCUMENTS = [
    "There are fast trains to Berlin every hour.",
    "The number of inhabitants of Paris grows every year.",
    "Visitors of Berlin go to the old castle first.",
    "The number of inhabitants of Berlin grows every year.",
]


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Rank documents for a query.")
    parser.add_argument("query", nargs="?", default="How many people live in Berlin?")
    parser.add_argument("--documents", type=Path, help="a file with one document per line")
    parser.add_argument("--model", default=str(TINY), help="a model of the Hub, or a folder")
    chosen = parser.parse_args(args)
    documents = chosen.documents.read_text(encoding="utf-8").splitlines() if chosen.documents else DOCUMENTS
    model = QEFFAutoModelForSequenceClassification.from_pretrained(chosen.model)
    model.compile(seq_len=[32, 64], batch_size=8)
    for index, score in model.rank(chosen.query, documents, top_k=10):
        print(f"{score:5.2f}  {documents[index]}")


if __name__ == "__main__":
    main()
