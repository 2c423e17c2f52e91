"""Classify texts: the likeliest label of each, with its probability.

    python examples/classify.py "What a wonderful film." "The soup was not good."
    python examples/classify.py "..." --model distilbert/distilbert-base-uncased-finetuned-sst-2-english

The default model is tiny, and knows short reviews only: see tiny_models/README.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from QEfficient import QEFFAutoModelForSequenceClassification

TINY = Path(__file__).parent / "tiny_models" / "classifier"
TEXTS = ["What a wonderful film.", "The soup was not good.", "This camera is dreadful, and I would say so again."]


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Classify texts.")
    parser.add_argument("texts", nargs="*", default=TEXTS)
    parser.add_argument("--model", default=str(TINY), help="a model of the Hub, or a folder")
    chosen = parser.parse_args(args)
    model = QEFFAutoModelForSequenceClassification.from_pretrained(chosen.model)
    model.compile(seq_len=[32, 64], batch_size=8)
    scores = model.predict(chosen.texts, apply_softmax=True)  # [texts, labels]
    for text, row in zip(chosen.texts, scores, strict=True):
        print(f"{model.labels[row.argmax()]:<10} {row.max():4.0%}  {text}")


if __name__ == "__main__":
    main()
