"""Stop strings end answers at the tokens at which transformers' StopStringCriteria does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.generation.stopping_criteria import StopStringCriteria

from QEfficient.errors import OptionError
from QEfficient.generation.stopping import StopStrings, TokenBytes, check_stop_strings

LETTERS = "abcdef"


def byte_level() -> Any:
    return tiny_models.tiny_tokenizer()


def byte_fallback() -> Any:
    """As of Llama 2: pieces with ▁, and a token for each byte."""
    pieces = [
        "<unk>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *LETTERS,
        "▁a",
        "ab",
        "▁the",
        "e▁",
        "é",
    ]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, [], byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


def word_pieces() -> Any:
    """As of BERT: pieces within a word begin with ##."""
    pieces = ["[UNK]", "[SEP]", *LETTERS, *(f"##{letter}" for letter in LETTERS), "the", "##ing", "é", ".", "abc"]
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", sep_token="[SEP]")


def words() -> Any:
    """Without a decoder: tokens are joined with spaces."""
    vocabulary = ["[UNK]", "abcdef", *LETTERS, "the", "end", "a.b"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


STRINGS = {
    "byte_level": [["e"], [" the"], ["a", "qu"], ["France is"], ["é"], ["</s>"], ["e.\n"], ["eee"]],
    "byte_fallback": [["a"], ["ab"], [" a"], ["e a", "é"], ["\n"], ["ba the"], ["</s>"], ["aaa", "d"]],
    "word_pieces": [["a"], ["ab", " the"], ["ing"], ["aing ."], ["abcab"], ["[SEP]"]],
    "words": [["a"], ["the end"], ["a.b a"], ["nd"]],
}


@pytest.mark.parametrize("kind", STRINGS)
def test_answers_end_where_transformers_ends_them(kind: str) -> None:
    tokenizer = globals()[kind]()
    random, num_ends = np.random.default_rng(0), 0
    known = [TokenBytes.of(tokenizer.backend_tokenizer), TokenBytes.of_transformers(tokenizer)]
    for strings in STRINGS[kind]:
        theirs = StopStringCriteria(tokenizer, strings)
        ours = [StopStrings(strings, each) for each in known]
        likely = tokenizer(" ".join(strings), add_special_tokens=False)["input_ids"]
        for _ in range(150):
            tokens = random.integers(0, len(tokenizer), random.integers(1, 12))
            drawn = random.random(len(tokens)) < 0.7
            tokens[drawn] = random.choice(likely, drawn.sum())
            expected = bool(theirs(torch.tensor(tokens)[None], None))
            assert [rule(tokens.tolist()) for rule in ours] == [expected] * 2, (strings, tokens)
            num_ends += expected
    assert num_ends > 20


def test_tokens_that_no_tokenizer_has_are_no_text() -> None:
    """A model may have more tokens than its tokenizer."""
    tokenizer = byte_level()
    for known in (TokenBytes.of(tokenizer.backend_tokenizer), TokenBytes.of_transformers(tokenizer)):
        assert known[99_999] == known[-1] == b""
        assert not StopStrings(["a"], known)([5, 99_999])


def test_strings_without_a_tokenizer_are_refused() -> None:
    with pytest.raises(OptionError, match=r"stop_strings=\['x'\].*no tokenizer"):
        check_stop_strings(["x"], has_tokenizer=False)
    check_stop_strings((), has_tokenizer=False)
