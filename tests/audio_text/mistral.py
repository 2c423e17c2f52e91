"""A tokenizer with the chats of mistral-common, which is not installed here: audio comes out of them as samples."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Sequence
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
