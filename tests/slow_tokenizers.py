"""Tiny tokenizers that transformers computes in Python: of vocabularies in files, of sentencepiece, of bytes alone."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

_TEXT = """My name is John and I am an engineer. What is the capital of France? The capital of France is Paris.
The library takes a checkpoint, compiles it and runs it on the card or on the processor that is there.
Je m'appelle Jean et je suis ingenieur. Quelle est la capitale de la France ?"""
SPECIAL = ("<unk>", "<s>", "</s>")


def phobert(folder: Path) -> Any:
    """Words of ``vocab.txt``, merged by ``bpe.codes``."""
    from transformers import PhobertTokenizer

    letters = sorted({letter for letter in _TEXT if letter.strip()})
    words = [f"{letter}{end}" for letter in letters for end in ("@@", "")] + ["My", "name"]
    (folder / "vocab.txt").write_text("".join(f"{word} 1\n" for word in words))
    (folder / "bpe.codes").write_text("M y</w> 10\nn a 9\nna m 8\nnam e</w> 7\n")
    return PhobertTokenizer(str(folder / "vocab.txt"), str(folder / "bpe.codes"))


def m2m_100(folder: Path) -> Any:
    """Sentencepiece, and a token for each language."""
    from transformers import M2M100Tokenizer

    pieces = _sentencepiece(folder / "sentencepiece.bpe.model")
    vocab = _numbered(["<s>", "<pad>", "</s>", "<unk>", *pieces])
    (folder / "vocab.json").write_text(json.dumps(vocab))
    names = {"vocab_file": "vocab.json", "spm_file": "sentencepiece.bpe.model"}
    files = {argument: str(folder / name) for argument, name in names.items()}
    return M2M100Tokenizer(**files, src_lang="en", tgt_lang="fr")


def marian(folder: Path) -> Any:
    """Two sentencepiece models, of the source and of the target language."""
    from transformers import MarianTokenizer

    pieces = _sentencepiece(folder / "source.spm")
    (folder / "target.spm").write_bytes((folder / "source.spm").read_bytes())
    (folder / "vocab.json").write_text(json.dumps(_numbered(["</s>", "<unk>", *pieces, "<pad>"])))
    return MarianTokenizer(*(str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")))


def byt5(folder: Path) -> Any:
    """Bytes: no vocabulary, and so no file."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer(extra_ids=0)


SLOW = {"phobert": phobert, "m2m_100": m2m_100, "marian": marian, "byt5": byt5}


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def _sentencepiece(path: Path) -> list[str]:
    """Train a model of a hundred pieces; returns those that are no special tokens."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXT.splitlines()),
        model_writer=written,
        vocab_size=120,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path.write_bytes(written.getvalue())
    model = sentencepiece.SentencePieceProcessor(str(path))
    return [piece for piece in map(model.id_to_piece, range(len(model))) if piece not in SPECIAL]
