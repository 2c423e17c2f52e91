"""What a family's tiny checkpoint needs besides its config's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from architectures.tiny import merged

Ids = str | tuple[str, ...] | Mapping[str, None]


@dataclass(frozen=True)
class Recipe:
    """How to make the checkpoint and the processor of a family.

    Attributes:
        image: What stands for one image in a prompt; ``""`` where the processor places images itself.
        ids: By name of a config's field, at any depth, the special token whose id it holds; or the tokens of a tuple
            of ids, or those of a dict from tokens to ids.
        names: By attribute of the tokenizer, a special token; processors ask for some of them.
        others: Further special tokens.
        config: Changes to the small config, nested as the config is.
        images: Arguments of the image processor.
        processor: Arguments of the processor.
        processor_class: Where the auto classes know none, or another one.
        image_processor_class: As for the processor.
        chats: Whether the checkpoint has a chat template.
        text: What its tokenizer makes of a text ``$A``.
        reads: Whether the processor takes a text.
        pieces: Whether its placeholders are pieces of a unigram model, as words are, not tokens of their kind.
        saved_prefix: What transformers puts before the weights' names when it saves, and does not find when it loads.
        boxes: Whether its tokenizer takes words and where they are in the image.
        nested: Whether the processor wants a list of prompts and a list of lists of images even for one prompt.
        max_images: Images that one prompt can have.
        call: Options of a call of the processor that a user has to give.
        compiling: Options of ``compile`` without which it does not take several images.
    """

    image: str = "<image>"
    ids: Mapping[str, Ids] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    processor_class: str | None = None
    image_processor_class: str | None = None
    chats: bool = True
    text: str = "<s> $A"
    reads: bool = True
    nested: bool = False
    pieces: bool = False
    saved_prefix: str = ""
    boxes: bool = False
    max_images: int = 3
    call: Mapping[str, Any] = field(default_factory=dict)
    compiling: Mapping[str, Any] = field(default_factory=dict)

    def but(self, **changes: Any) -> Recipe:
        """This recipe with ``changes``; dicts change dict into dict, the rest is replaced."""
        values = {
            name: merged(dict(getattr(self, name)), value) if isinstance(value, dict) else value
            for name, value in changes.items()
        }
        return replace(self, **values)

    @property
    def tokens(self) -> tuple[str, ...]:
        """Special tokens that no attribute of the tokenizer names."""
        groups = [[value] if isinstance(value, str) else list(value) for value in self.ids.values()]
        return tuple(dict.fromkeys([*(token for group in groups for token in group), *self.others]))
