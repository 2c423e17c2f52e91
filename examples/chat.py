"""Talk with a model: an answer streams as it is generated, and each turn sees the ones before it.

    python examples/chat.py                                # the demo model of this repository
    python examples/chat.py Qwen/Qwen2.5-0.5B-Instruct     # a model of the Hub
    echo "What is a compiled package?" | python examples/chat.py

`qefficient infer MODEL --chat` is the same with commands, history and a context that drops its oldest turns.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from QEfficient import QEFFAutoModelForCausalLM

DEMO = Path(__file__).parent / "demo_model" / "checkpoint"


def chat(model: QEFFAutoModelForCausalLM, turns: Iterable[str]) -> list[dict[str, str]]:
    """Answer each turn; the conversation as a list of messages."""
    messages: list[dict[str, str]] = []
    for turn in turns:
        messages.append({"role": "user", "content": turn.strip()})
        answer = ""
        for piece in model.stream(messages, generation_len=120):
            print(piece, end="", flush=True)
            answer += piece
        print()
        messages.append({"role": "assistant", "content": answer})
    return messages


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Talk with a model; Ctrl-D ends the conversation.")
    parser.add_argument("model", nargs="?", default=str(DEMO), help="a model of the Hub, or a folder")
    model = QEFFAutoModelForCausalLM.from_pretrained(parser.parse_args(args).model)
    model.compile(ctx_len=1024, prefill_seq_len=128)
    chat(model, sys.stdin)


if __name__ == "__main__":
    main()
