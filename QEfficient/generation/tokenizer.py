"""The tokenizer of a package: text to ids, ids to text, chats to prompts.

One that is a single ``tokenizer.json`` needs no transformers. One that transformers computes in Python is there with
the files that it wrote, and runs in transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from QEfficient.errors import CapacityError, CorruptArtifact, LifecycleError, OptionError
from QEfficient.generation.chat_template import checked_length, render_chat
from QEfficient.generation.prompts import checked_text, token_ids
from QEfficient.generation.space_cleanup import clean_up
from QEfficient.generation.stopping import TokenBytes
from QEfficient.generation.streaming import TextStream
from QEfficient.machine import SLOW_TOKENIZERS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FOLDER = "tokenizer"
TOKENIZER_FILE = "tokenizer.json"
_STRAY_BYTE = "<0xFF>"
"""A token that is not part of any character, where a vocabulary has one for each byte."""
_NO_TEMPLATE = "This checkpoint has no chat template: give the prompt as text, not as messages."


def has_tokenizer(folder: Path) -> bool:
    """Whether a package's ``folder`` for it has one."""
    return folder.is_dir() and any(folder.iterdir())


def open_tokenizer(folder: Path) -> PackageTokenizer | ForeignTokenizer:
    """The tokenizer in ``folder``, in whatever form it is there.

    Raises:
        LifecycleError: there is none, or what it needs to run is not installed.
        CorruptArtifact: it cannot be used.
    """
    if (folder / TOKENIZER_FILE).is_file() or not has_tokenizer(folder):
        return PackageTokenizer(folder)
    return ForeignTokenizer(_in_python(folder))


def _in_python(folder: Path) -> PreTrainedTokenizerBase:
    path = folder / "tokenizer_config.json"
    config = read_side_file(path) if path.is_file() else {}
    name = f"{folder} is a {config.get('tokenizer_class', 'tokenizer')}, which has no {TOKENIZER_FILE}"
    try:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ImportError as error:
        said = " ".join(str(error).split())[:200]
        raise LifecycleError(
            f"{name} and runs in transformers, where something is not installed: {said}. Install it "
            f"({SLOW_TOKENIZERS}), give token ids instead of text, or pass tokenizer=..."
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        said = "it is code of the checkpoint, and a package brings none"
        said = said if config.get("auto_map") else " ".join(str(error).split())[:200].rstrip(".")
        raise CorruptArtifact(f"{name}, and transformers cannot open it: {said}. Pass tokenizer=...") from error


class PackageTokenizer:
    """Encodes and decodes with ``tokenizer.json``; renders the checkpoint's chat template."""

    def __init__(self, folder: Path):
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise LifecycleError(
                f"{folder.parent} has no tokenizer: the model was compiled without one. Give token ids instead of "
                "text, or pass tokenizer=..."
            )
        self._path = path
        self._truncated: dict[int, PackageTokenizer] = {}
        with self._errors():
            self._tokenizer = Tokenizer.from_file(str(path))
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
        config, template = folder / "tokenizer_config.json", folder / "chat_template.jinja"
        self._config = read_side_file(config) if config.is_file() else {}
        self._special_tokens = _special_tokens(self._config, config)
        self._cleans_spaces = cleans_spaces(self._flag, type(self._tokenizer.model).__name__)
        self._tokenizer.encode_special_tokens = self._flag("split_special_tokens")
        self._template_source = str(template) if template.is_file() else f"of {config}"
        self.chat_template: str | None = (
            _read_text(template) if template.is_file() else self._config.get("chat_template")
        )

    def _flag(self, name: str) -> bool:
        value = self._config.get(name)
        if value is not None and not isinstance(value, bool):
            raise CorruptArtifact(f"{self._path.parent}: {name} must be true or false, got {repr(value)[:60]}.")
        return bool(value)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the tokenizers library raises, which has no class for it, into an error of ours."""
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:
            raise CorruptArtifact(
                f"{self._path} cannot be used: {error}. Compile again from a checkpoint with a whole tokenizer."
            ) from error

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of ``text``.

        Raises:
            OptionError: it is no text, or not valid Unicode.
        """
        text = checked_text(text)
        with self._errors():
            return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def encode_text(self, text: str, second: str | None = None) -> tuple[list[int], list[int] | None]:
        """Token ids and ``token_type_ids`` of a text or of a pair, with special tokens. Raises as :meth:`encode`."""
        text, second = checked_text(text), None if second is None else checked_text(second)
        with self._errors():
            encoding = self._tokenizer.encode(text, second)
        names = self._config.get("model_input_names")
        takes_types = not isinstance(names, list) or "token_type_ids" in names
        return list(encoding.ids), list(encoding.type_ids) if takes_types else None

    def truncated(self, max_len: int) -> PackageTokenizer:
        """One that cuts what is longer than ``max_len`` tokens, of a pair the longer text first.

        Raises:
            CapacityError: the special tokens alone are more.
        """
        if max_len not in self._truncated:
            check_room(max_len, self._tokenizer.num_special_tokens_to_add(is_pair=True))
            shorter = copy(self)
            with self._errors():
                shorter._tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
                shorter._tokenizer.encode_special_tokens = self._tokenizer.encode_special_tokens
                side = "left" if self._config.get("truncation_side") == "left" else "right"
                shorter._tokenizer.enable_truncation(max_len, strategy="longest_first", direction=side)
            self._truncated[max_len] = shorter
        return self._truncated[max_len]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of ``ids``.

        Raises:
            OptionError: they are no token ids.
        """
        text = self._text(ids, skip_special_tokens)
        return clean_up(text) if self._cleans_spaces else text

    def _text(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of ``ids``, its spaces not cleaned up."""
        known = token_ids(ids, "ids")
        if known and not 0 <= min(known) <= max(known) < 2**32:
            raise OptionError(f"ids must be token ids, from 0 on, got {min(known)} to {max(known)}.")
        with self._errors():
            return self._tokenizer.decode(known, skip_special_tokens=skip_special_tokens)

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text, if there is one."""
        token = self._special_tokens.get("eos_token")
        return None if token is None else self._tokenizer.token_to_id(token)

    def token_bytes(self) -> TokenBytes:
        """What each token adds to a text."""
        with self._errors():
            return TokenBytes.of(self._tokenizer)

    def text_stream(self) -> TextStream:
        """Turns the ids of a text into pieces that make up its text, without special tokens."""
        return TextStream(self._text, cleans_spaces=self._cleans_spaces, probe_ids=_probe_ids(self._tokenizer))

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Text as the ids arrive, in pieces of complete characters."""
        return self.text_stream().pieces(ids)

    def encode_chat(self, messages: list[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn.

        Args:
            messages: each with ``role`` and ``content``.

        Raises:
            OptionError: the checkpoint has no chat template, or the template refuses the conversation, fails on it, or
                takes more than 2 s or 64 MiB.
        """
        return self.encode(checked_length(self.render_chat(messages), messages), add_special_tokens=False)

    def render_chat(self, messages: list[Mapping[str, str]]) -> str:
        """The conversation as the text that the model was trained on. Raises as :meth:`encode_chat`."""
        if not isinstance(self.chat_template, str):
            raise OptionError(_NO_TEMPLATE)
        return render_chat(self.chat_template, messages, self._special_tokens, self._template_source)


def check_room(max_len: int, num_special: int) -> None:
    """
    Raises:
        CapacityError: a text cut to ``max_len`` tokens has none but those that the tokenizer adds.
    """
    if max_len <= num_special:
        raise CapacityError(f"A text cut to {max_len} tokens has only the {num_special} that the tokenizer adds.")


def _probe_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """See :class:`QEfficient.generation.streaming.TextStream`."""
    stray_byte = tokenizer.token_to_id(_STRAY_BYTE)
    return () if stray_byte is None else (stray_byte,)


def cleans_spaces(flag: Callable[[str], bool], model: str) -> bool:
    """Whether transformers cleans up the spaces of a tokenizer's texts.

    Args:
        flag: a setting of the tokenizer by its name.
        model: the class of its model in the tokenizers library. Of one of byte pairs, transformers leaves a text as it
            is unless it is told twice.
    """
    is_forced = flag("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output")
    return flag("clean_up_tokenization_spaces") and (model != "BPE" or is_forced)


_SPECIAL = frozenset(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


def _special_tokens(config: Mapping[str, Any], path: Path) -> dict[str, str]:
    special_tokens = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            special_tokens[name] = text
        elif name in _SPECIAL and value is not None:
            raise CorruptArtifact(f"{path}: {name} is not a token: {repr(value)[:60]}. Compile again.")
    return special_tokens


def read_side_file(path: Path) -> dict[str, Any]:
    """A JSON file of a package.

    Raises:
        CorruptArtifact: it is not JSON object.
    """
    try:
        content = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise CorruptArtifact(f"{path} is not valid JSON: {error}. Compile again.") from error
    if not isinstance(content, dict):
        raise CorruptArtifact(f"{path} holds a {type(content).__name__}, expected an object. Compile again.")
    return content


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except ValueError as error:
        raise CorruptArtifact(f"{path} is not UTF-8: {error}. Compile again.") from error


class ForeignTokenizer:
    """A tokenizer of transformers, with the methods of :class:`PackageTokenizer`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_len: int | None = None):
        self._tokenizer = tokenizer
        self._cuts: dict[str, Any] = {} if max_len is None else {"truncation": "longest_first", "max_length": max_len}

    def truncated(self, max_len: int) -> ForeignTokenizer:
        """As of :class:`PackageTokenizer`."""
        check_room(max_len, self._tokenizer.num_special_tokens_to_add(pair=True))
        return ForeignTokenizer(self._tokenizer, max_len)

    @property
    def groups_tokens(self) -> bool:
        """Whether it merges repeated tokens when it decodes, as those of CTC models do."""
        decode: Callable[..., str] = getattr(self._tokenizer, "_decode", self._tokenizer.decode)
        return "group_tokens" in signature(decode).parameters

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=add_special_tokens, **self._cuts)["input_ids"])

    def encode_text(self, text: str, second: str | None = None) -> tuple[list[int], list[int] | None]:
        encoding = self._tokenizer(text, second, **self._cuts)
        token_types = encoding.get("token_type_ids")
        return list(encoding["input_ids"]), None if token_types is None else list(token_types)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True, **options: bool) -> str:
        known, decode = list(ids), partial(self._tokenizer.decode, skip_special_tokens=skip_special_tokens, **options)
        try:
            return decode(known)
        except (LookupError, ValueError, TypeError) as error:
            # Rust drops ids beyond its vocabulary, where a model has more than its tokenizer; Python raises.
            size = len(self._tokenizer)
            inside = [each for each in known if each < size]
            if len(inside) == len(known):
                raise OptionError(f"{type(self._tokenizer).__name__} cannot decode {known[:8]}: {error}") from error
            return decode(inside)

    @property
    def eos_token_id(self) -> int | None:
        token = getattr(self._tokenizer, "eos_token_id", None)
        return token if isinstance(token, int) else None

    def token_bytes(self) -> TokenBytes:
        return TokenBytes.of_transformers(self._tokenizer)

    def text_stream(self) -> TextStream:
        tokenizer = self._tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        is_cleaned = cleans_spaces(
            lambda name: getattr(tokenizer, name, False) is True, type(getattr(backend, "model", None)).__name__
        )
        decode = partial(self.decode, clean_up_tokenization_spaces=False) if is_cleaned else self.decode
        probe_ids = () if backend is None else _probe_ids(backend)
        return TextStream(decode, cleans_spaces=is_cleaned, probe_ids=probe_ids)

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        return self.text_stream().pieces(ids)

    def encode_chat(self, messages: list[Mapping[str, str]]) -> list[int]:
        if not getattr(self._tokenizer, "chat_template", None):
            raise OptionError(_NO_TEMPLATE)
        return self.encode(checked_length(self.render_chat(messages), messages), add_special_tokens=False)

    def render_chat(self, messages: list[Mapping[str, str]]) -> str:
        from transformers import PreTrainedTokenizerBase

        if type(self._tokenizer).apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template:
            # A class of the caller, which may have no template of jinja2 at all.
            return self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        source = f"of the tokenizer {self._tokenizer.name_or_path!r}"
        try:
            template = self._tokenizer.get_chat_template()
        except ValueError as error:
            raise OptionError(f"The chat template {source} cannot be used: {error}") from error
        return render_chat(template, messages, self._tokenizer.special_tokens_map, source)
