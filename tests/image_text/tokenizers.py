"""Tiny tokenizers of multimodal models: bytes, a few merges, and the placeholders that a processor asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from image_text.recipe import Recipe

_TEXT = """What is in the image? A red square is on the left, a blue circle is on the right, and a green line is below.
My name is John and I am an engineer. Describe this image. Read the text of the document and the table."""
BASIC = ("<pad>", "<s>", "</s>", "<unk>")
"""Ids 0, 1, 2, 3."""
_NUM_MERGES = 40
_USUAL = ("sep_token", "cls_token", "mask_token")


def tokenizer_of(recipe: Recipe) -> Any:
    """The tiny tokenizer of a family."""
    if recipe.boxes:
        return _tokenizer_of_boxes()
    if recipe.pieces:
        return _tokenizer_of_pieces(recipe.tokens)
    return tiny_tokenizer(recipe.names, recipe.tokens, recipe.text)


def _pieces() -> list[tuple[str, float]]:
    """Letters and words of a unigram model, with their scores."""
    letters = sorted({letter for letter in _TEXT if letter.strip()})
    words = [f"▁{word}" for word in dict.fromkeys(_TEXT.split())]
    return [("▁", -4.0), *((letter, -5.0) for letter in letters), *((word, -3.0) for word in words)]


def _tokenizer_of_boxes() -> Any:
    from transformers import UdopTokenizer

    return UdopTokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *_pieces()])


def _tokenizer_of_pieces(placeholders: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    special = [(token, 0.0) for token in (*BASIC, *placeholders)]
    tokenizer = Tokenizer(models.Unigram([*special, *_pieces()], unk_id=BASIC.index("<unk>")))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def tiny_tokenizer(names: Mapping[str, str], others: Sequence[str] = (), text: str = "<s> $A") -> Any:
    """A byte-level BPE tokenizer of about 300 tokens.

    Args:
        names: By attribute of the tokenizer, as ``image_token``, a special token.
        others: Special tokens that no attribute names.
        text: What it makes of a text ``$A``, of the tokens of :data:`BASIC`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = list(dict.fromkeys([*BASIC, *names.values(), *others]))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = len(special) + len(alphabet) + _NUM_MERGES
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT], trainer)
    numbered = [(token, number) for number, token in enumerate(BASIC)]
    tokenizer.post_processor = processors.TemplateProcessing(single=text, pair=f"{text} $B:1", special_tokens=numbered)
    usual = {name: token for name, token in names.items() if name in _USUAL}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[token for token in special[4:] if token not in names.values()],
        extra_special_tokens={name: token for name, token in names.items() if name not in usual},
        **usual,
    )
