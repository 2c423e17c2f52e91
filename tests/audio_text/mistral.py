"""Tokenizers with the chats and the transcription requests of mistral-common, which is not installed here: audio comes
out of them as samples."""

from __future__ import annotations

import base64
import importlib
import io
import wave
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from image_text.tokenizers import tiny_tokenizer

AUDIO_ID = 24
_SAMPLES_PER_TOKEN, _WINDOW = 1280, 480000


def tokenizer(audio: str) -> Any:
    """Whose token :data:`AUDIO_ID` is ``audio``; a clip of it has one each 80 ms, in whole windows of 30 s."""
    fillers = [f"[F{number}]" for number in range(AUDIO_ID - 4)]
    made = tiny_tokenizer({}, [*fillers, audio])

    def apply_chat_template(conversations: Sequence[Any], **options: Any) -> dict[str, Any]:
        samples: list[np.ndarray] = []
        (chat,) = conversations
        text = made.bos_token + "".join(_spoken(message, audio, samples) for message in chat)
        encoded = dict(made([text], add_special_tokens=False))
        return encoded | ({"audio": samples} if samples else {})

    made.apply_chat_template = apply_chat_template
    return made


def _spoken(message: Any, audio: str, samples: list[np.ndarray]) -> str:
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    text = ""
    for part in parts:
        if part["type"] != "audio":
            text += part["text"]
            continue
        samples.append(_decoded(part["base64"]))
        num_windows = -(-len(samples[-1]) // _WINDOW)
        text += audio * (num_windows * _WINDOW // _SAMPLES_PER_TOKEN)
    return f"{message['role']}: {text}\n"


def _decoded(content: str) -> np.ndarray:
    with wave.open(io.BytesIO(base64.b64decode(content))) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 2**15


def contents(audio: Sequence[np.ndarray], rate: int = 16000) -> list[dict[str, str]]:
    """What a chat says of clips."""
    parts = []
    for samples in audio:
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setparams((1, 2, rate, 0, "NONE", ""))
            file.writeframes(np.round(samples * (2**15 - 1)).astype("<i2").tobytes())
        parts.append({"type": "audio", "base64": base64.b64encode(buffer.getvalue()).decode()})
    return parts


_NUM_LEFT, _NUM_DELAYED, _NUM_AFTER = 2, 3, 10
"""Tokens of silence before a clip of a stream, of its delay, and behind both."""


def streaming_tokenizer(audio: str, extractor: Any) -> Any:
    """Whose requests for a transcription are streams: a clip between silence, and a token ``audio`` for each 80 ms of
    the silence before it and of the delay."""
    made = tiny_tokenizer({}, [audio])
    pad = made.convert_tokens_to_ids(audio)

    def encode_transcription(request: Any) -> Any:
        samples = request.audio
        behind = -len(samples) % _SAMPLES_PER_TOKEN + (_NUM_DELAYED + 1 + _NUM_AFTER) * _SAMPLES_PER_TOKEN
        padded = np.pad(samples, (_NUM_LEFT * _SAMPLES_PER_TOKEN, behind))
        tokens = [made.bos_token_id, *[pad] * (_NUM_LEFT + _NUM_DELAYED)]
        return SimpleNamespace(tokens=tokens, audios=[SimpleNamespace(audio_array=padded)])

    sizes = SimpleNamespace(
        window_size=extractor.win_length, hop_length=extractor.hop_length, num_mel_bins=extractor.feature_size
    )
    config = SimpleNamespace(
        encoding_config=sizes, sampling_rate=extractor.sampling_rate, get_num_delay_tokens=lambda: _NUM_DELAYED
    )
    instruct = SimpleNamespace(audio_encoder=SimpleNamespace(audio_config=config))
    usual = type(made)

    def encode(self: Any, text: Any, **options: Any) -> Any:
        if text and isinstance(text[0], list):
            return {"input_ids": text, "attention_mask": [[1] * len(ids) for ids in text]}
        return usual.__call__(self, text, **options)

    made.__class__ = type(usual.__name__, (usual,), {"__call__": encode})
    made.tokenizer = SimpleNamespace(instruct_tokenizer=instruct, encode_transcription=encode_transcription)
    return made


def realtime_processor(tokenizer: Any, extractor: Any) -> Any:
    """transformers' processor of streams, over such a tokenizer."""
    # transformers' lazy module would say what is missing.
    names: Any = importlib.import_module("transformers.models.voxtral_realtime.processing_voxtral_realtime")
    names.MistralCommonBackend = type(tokenizer)
    names.Audio = lambda audio_array, **others: SimpleNamespace(to_base64=lambda kind: audio_array, **others)
    names.TranscriptionRequest = SimpleNamespace
    names.StreamingMode = SimpleNamespace(OFFLINE="offline")
    return names.VoxtralRealtimeProcessor(extractor, tokenizer)
