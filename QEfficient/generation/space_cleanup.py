"""The spaces that transformers takes out of a decoded text where a tokenizer has ``clean_up_tokenization_spaces``."""

from __future__ import annotations

_REPLACED = {
    " .": ".",
    " ?": "?",
    " !": "!",
    " ,": ",",
    " ' ": "'",
    " n't": "n't",
    " 'm": "'m",
    " 's": "'s",
    " 've": "'ve",
    " 're": "'re",
}
"""In the order of transformers, which replaces one after the other."""


def clean_up(text: str) -> str:
    """``text`` without those spaces."""
    for spaced, plain in _REPLACED.items():
        text = text.replace(spaced, plain)
    return text


def _begun() -> tuple[str, ...]:
    """Ends of a text that more text makes one of those. An apostrophe may have been `` ' `` before."""
    spaced = {*_REPLACED}
    spaced |= {text.replace("'", " ' ") for text in _REPLACED if text.startswith((" '", " n")) and text != " ' "}
    return tuple({text[:length] for text in spaced for length in range(1, len(text))})


_BEGUN = _begun()


class SpaceCleaner:
    """Cleans a text that comes in pieces: what it returns makes up the cleaned text."""

    def __init__(self) -> None:
        self._rest = ""

    def add(self, piece: str) -> str:
        """The next part of the cleaned text, up to where more text cannot change it; often empty."""
        text = self._rest + piece
        end = next((end for end in range(len(text), 0, -1) if not text[:end].endswith(_BEGUN)), 0)
        self._rest = text[end:]
        return clean_up(text[:end])

    def finish(self) -> str:
        """The last part."""
        rest, self._rest = self._rest, ""
        return clean_up(rest)
