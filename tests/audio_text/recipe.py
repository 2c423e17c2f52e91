"""What a family's tiny checkpoint with an audio tower needs besides its config's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from image_text.recipe import Ids


@dataclass(frozen=True)
class Recipe:
    """How to make the checkpoint and the processor of a family.

    Attributes:
        audio: What stands for one clip in a prompt; ``""`` where the processor places clips itself.
        ids: By name of a config's field, at any depth, the special token whose id it holds.
        names: By attribute of the tokenizer, a special token.
        others: Further special tokens.
        config: Changes to the small config, nested as the config is.
        extractor: Arguments of the feature extractor.
        extractor_name: The name that the processor has for it.
        processor: Arguments of the processor.
        takes_audio: Whether a call of the processor takes audio; else its chats do.
        reads_text: Whether a call of the processor takes text.
        takes_text: Whether a prompt may have no audio.
        seconds: Of the clips of a prompt.
        max_clips: Clips that one prompt can have.
        call: Options of the model, of which its processor knows nothing.
    """

    audio: str = "<audio>"
    ids: Mapping[str, Ids] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    extractor: Mapping[str, Any] = field(default_factory=dict)
    extractor_name: str = "feature_extractor"
    processor: Mapping[str, Any] = field(default_factory=dict)
    takes_audio: bool = True
    reads_text: bool = True
    takes_text: bool = True
    seconds: tuple[float, ...] = (0.6, 1.3)
    max_clips: int = 2
    call: Mapping[str, Any] = field(default_factory=dict)
