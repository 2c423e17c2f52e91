"""Tiny random checkpoints of speech models with their processors."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from architectures.tiny import tiny_model

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
FIRST_TIME, VOCAB = 250, 320
"""Of Whisper: the token of time 0."""
SPOKEN = {
    "decoder_start_token_id": 240,
    "eos_token_id": 239,
    "pad_token_id": 239,
    "lang_to_id": {"<|en|>": 241, "<|de|>": 242},
    "task_to_id": {"translate": 243, "transcribe": 244},
    "no_timestamps_token_id": FIRST_TIME - 1,
    "suppress_tokens": [7, 8],
    "begin_suppress_tokens": [30, 239],
    "is_multilingual": True,
    "max_length": 40,
    "return_timestamps": False,
}


def save_wav2vec2(folder: Path) -> Path:
    """A CTC model over samples, with letters for tokens."""
    from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

    folder.mkdir(parents=True, exist_ok=True)
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS]
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({token: index for index, token in enumerate(tokens)}), encoding="utf-8")
    tiny_model("ctc", "wav2vec2").save_pretrained(folder)
    tokenizer = Wav2Vec2CTCTokenizer(str(vocabulary))
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=True), tokenizer).save_pretrained(folder)
    return folder


@cache
def whisper() -> Any:
    """A tiny Whisper that reads one second, with the tokens of a multilingual one."""
    from transformers import GenerationConfig

    model = tiny_model("speech_seq2seq", "whisper")
    model.generation_config = GenerationConfig(**SPOKEN)
    return model


@cache
def whisper_extractor() -> Any:
    """The feature extractor of :func:`whisper`."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=16, chunk_length=1)


def save_whisper(folder: Path) -> Path:
    """:func:`whisper` with a tokenizer that has a word for each token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    whisper().save_pretrained(folder)
    words = {f"w{index}": index for index in range(VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [f"w{index}" for index in range(239, FIRST_TIME)]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=special).save_pretrained(folder)
    whisper_extractor().save_pretrained(folder)
    return folder
