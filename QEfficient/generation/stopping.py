"""What ends an answer beside end tokens and its length."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders

from QEfficient.errors import OptionError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

StopRule = Callable[[list[int]], bool]
"""Whether an answer ends, by the tokens of prompt and answer, the newest last."""
_PREFIX = "abcdef"
"""What a token follows when its text is asked for: decoders treat the beginning of a text differently."""


class TokenBytes:
    """The bytes that each token adds to a text, as transformers' StopStringCriteria sees them.

    Args:
        prefix: the tokens of :data:`_PREFIX`.
        token: a token by its id; None: there is none.
        join: the text of several tokens.
        decoder: of the tokenizers library, if it is what joins.
    """

    def __init__(
        self,
        prefix: list[str],
        token: Callable[[int], str | None],
        join: Callable[[list[str]], str],
        decoder: decoders.Decoder | None,
    ):
        self._prefix, self._token, self._join = prefix, token, join
        kinds = set() if decoder is None else _kinds(json.loads(decoder.__getstate__()))
        self._has_bytes = "ByteFallback" in kinds
        self._byte_of = _byte_alphabet() if "ByteLevel" in kinds and not self._has_bytes else None
        self._known: dict[int, bytes] = {}

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> TokenBytes:
        """Of a tokenizer of the tokenizers library."""
        prefix = tokenizer.encode(_PREFIX, add_special_tokens=False).tokens
        decoder = tokenizer.decoder
        return cls(prefix, tokenizer.id_to_token, " ".join if decoder is None else decoder.decode, decoder)

    @classmethod
    def of_transformers(cls, tokenizer: PreTrainedTokenizerBase) -> TokenBytes:
        """Of a tokenizer of transformers."""

        def token(token_id: int) -> str | None:
            return tokenizer.convert_ids_to_tokens(token_id) if token_id < len(tokenizer) else None

        prefix = tokenizer.convert_ids_to_tokens(tokenizer(_PREFIX, add_special_tokens=False)["input_ids"])
        decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        return cls(prefix, token, tokenizer.convert_tokens_to_string, decoder)

    def __getitem__(self, token_id: int) -> bytes:
        if token_id not in self._known:
            self._known[token_id] = self._bytes(token_id)
        return self._known[token_id]

    def _bytes(self, token_id: int) -> bytes:
        token = self._token(token_id) if token_id >= 0 else None
        if token is None:
            return b""
        if self._byte_of is not None and all(character in self._byte_of for character in token):
            return bytes(self._byte_of[character] for character in token)
        if self._has_bytes and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes.fromhex(token[3:5])
        begin, text = self._join(self._prefix), self._join([*self._prefix, token])
        begin = _PREFIX if _PREFIX in text else begin
        return text[text.find(begin) + len(begin) :].encode()


def _kinds(state: object) -> set[str]:
    """The types of a decoder and of those in it."""
    if isinstance(state, dict):
        return {str(state.get("type"))}.union(*map(_kinds, state.values()))
    return set().union(*map(_kinds, state)) if isinstance(state, list) else set()


def _byte_alphabet() -> dict[str, int]:
    """The bytes that the characters of byte-level tokens stand for: printable ones for themselves, and the rest, in
    their order, for those from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


class StopStrings:
    """Ends an answer with the token in which one of some texts ends; it may begin in the prompt, as in transformers.

    Args:
        texts: the texts.
        token_bytes: what each token adds to a text.
    """

    def __init__(self, texts: Sequence[str], token_bytes: TokenBytes):
        self._texts = [text.encode() for text in texts]
        self._longest = max(map(len, self._texts))
        self._token_bytes = token_bytes

    def __call__(self, tokens: list[int]) -> bool:
        newest = self._token_bytes[tokens[-1]]
        if not newest:
            return False
        before = b""
        for token in reversed(tokens[-self._longest : -1]):
            if len(before) >= self._longest:
                break
            before = self._token_bytes[token] + before
        # One byte of a text at least is the newest token's.
        return any(text in before[max(0, len(before) - len(text) + 1) :] + newest for text in self._texts)


def check_stop_strings(texts: Sequence[str], has_tokenizer: bool) -> None:
    """
    Raises:
        OptionError: there are some, and no tokenizer that says what tokens mean.
    """
    if texts and not has_tokenizer:
        raise OptionError(
            f"stop_strings={list(texts)!r}: the package has no tokenizer that says which tokens make a text. Pass "
            "tokenizer=..., or end answers with eos_token_id."
        )
