"""Translate texts with an encoder-decoder model, all in one batch.

    python examples/translate.py "three hundred and forty two" seven
    python examples/translate.py "Good morning." --model Helsinki-NLP/opus-mt-en-de
    python examples/translate.py "Good morning." --model facebook/m2m100_418M --language de

The default model is tiny, and translates the numbers below 1000 from English into German: see tiny_models/README.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from QEfficient import QEFFAutoModelForSeq2SeqLM

TINY = Path(__file__).parent / "tiny_models" / "translator"


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Translate texts.")
    parser.add_argument("texts", nargs="*", default=["three hundred and forty two", "seven", "ninety one"])
    parser.add_argument("--model", default=str(TINY), help="a model of the Hub, or a folder")
    parser.add_argument("--language", help="the language to translate into, for models with several")
    chosen = parser.parse_args(args)
    model = QEFFAutoModelForSeq2SeqLM.from_pretrained(chosen.model)
    model.compile(encoder_ctx_len=128, ctx_len=128, full_batch_size=4)
    options = {"forced_bos_token_id": model.tokenizer.get_lang_id(chosen.language)} if chosen.language else {}
    answers = model.generate(chosen.texts, **options)
    for text, translated in zip(chosen.texts, answers.generated_texts, strict=True):
        print(f"{text} -> {translated}")


if __name__ == "__main__":
    main()
