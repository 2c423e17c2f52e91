"""Compile a model, copy its package elsewhere, and run the copy where neither torch nor transformers is installed.

    python examples/ship_package.py shipped
    python examples/ship_package.py shipped --model Qwen/Qwen2.5-0.5B-Instruct

On the other machine, `requirements-runtime.txt` is all that has to be installed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from QEfficient import QEFFAutoModelForCausalLM

DEMO = Path(__file__).parent / "demo_model" / "checkpoint"
ELSEWHERE = """
import sys
sys.modules |= dict.fromkeys(["torch", "transformers", "onnx", "nncf"])  # as if they were not installed

from QEfficient import from_package

with from_package(sys.argv[1]) as model:
    print(model.generate(sys.argv[2], generation_len=16))
"""


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compile a model and ship its package.")
    parser.add_argument("folder", type=Path, help="where the copy goes; it must not exist")
    parser.add_argument("--model", default=str(DEMO), help="a model of the Hub, or a folder")
    parser.add_argument("--prompt", default="The fox")
    chosen = parser.parse_args(args)
    package = QEFFAutoModelForCausalLM.from_pretrained(chosen.model).compile(ctx_len=256)
    shutil.copytree(package, chosen.folder)
    command = [sys.executable, "-c", ELSEWHERE, str(chosen.folder), chosen.prompt]
    print(subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout)


if __name__ == "__main__":
    main()
