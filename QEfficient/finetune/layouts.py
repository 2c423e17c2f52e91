"""Layouts of rows: what of a row is context, and what the model shall learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from QEfficient.errors import OptionError
from QEfficient.finetune.rows import Row
from QEfficient.finetune.settings import FinetuneOptions
from QEfficient.generation.chat_template import render_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ALPACA = (
    "Below is an instruction that describes a task{context}. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n"
)
"""Of Stanford Alpaca (https://github.com/tatsu-lab/stanford_alpaca)."""
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "chat": ("messages",),
    "alpaca": ("instruction", "output"),
    "prompt-completion": ("prompt", "completion"),
    "text": ("text",),
}
"""Columns that a layout needs, in the order in which layouts are tried."""
_ROLES = {"human": "user", "gpt": "assistant"}
"""As ShareGPT calls them."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Text to train on.

    Attributes:
        text: All of it.
        learned: Start and end of each part that the loss counts, in characters.
        is_rendered: Whether a chat template wrote its special tokens.
    """

    text: str
    learned: tuple[tuple[int, int], ...]
    is_rendered: bool = False


Reader = Callable[[Row], Passage]


def reader_of(rows: Sequence[Row], options: FinetuneOptions, tokenizer: PreTrainedTokenizerBase) -> Reader:
    """What makes passages of these rows.

    Raises:
        DatasetError: the columns are those of no layout.
        OptionError: the layout is chat, and the tokenizer has no chat template.
    """
    eos = tokenizer.eos_token or ""
    if options.prompt_template is not None and options.completion_template is not None:
        prompt, completion = options.prompt_template, options.completion_template
        return lambda row: _completed(row, fill(row, prompt), fill(row, completion), eos)
    layout = options.layout or _detect(rows[0])
    if layout == "chat":
        return _Chat(tokenizer)
    if layout == "alpaca":
        return lambda row: _completed(row, _alpaca_prompt(row), text_of(row, "output"), eos)
    if layout == "prompt-completion":
        return lambda row: _completed(row, text_of(row, "prompt"), text_of(row, "completion"), eos)
    return lambda row: _plain(row, eos)


def _detect(row: Row) -> str:
    columns = row.values.keys()
    for layout, needed in _COLUMNS.items():
        if set(needed) <= columns or (layout == "chat" and "conversations" in columns):
            return layout
    known = "; ".join(f"{layout}: {', '.join(needed)}" for layout, needed in _COLUMNS.items())
    raise row.refused(
        f"its columns ({', '.join(map(str, columns))}) are those of no layout ({known}). Say how to read them, with "
        "prompt_template='{column}' and completion_template='{column}'."
    )


def text_of(row: Row, column: str) -> str:
    """
    Raises:
        DatasetError: there is no such column, or it is no text.
    """
    value = row.values.get(column)
    if not isinstance(value, str):
        raise row.refused(f"column '{column}' must be text, got {value!r}.")
    return row.checked_text(value)


def _alpaca_prompt(row: Row) -> str:
    context = text_of(row, "input") if row.values.get("input") else ""
    return _ALPACA.format(
        instruction=text_of(row, "instruction"),
        context=", paired with an input that provides further context" if context else "",
        input=f"### Input:\n{context}\n\n" if context else "",
    )


def fill(row: Row, template: str) -> str:
    """The template with the row's columns in it.

    Raises:
        DatasetError: it does not fit them.
    """
    try:
        return row.checked_text(template.format_map(row.values))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        columns = ", ".join(map(str, row.values))
        raise row.refused(f"the template {template!r} does not fit its columns ({columns}): {error!r}.") from error


def _completed(row: Row, prompt: str, completion: str, eos: str) -> Passage:
    if not completion:
        raise row.refused("its completion is empty: there is nothing to learn.")
    text = prompt + _ended(completion, eos)
    return Passage(text, ((len(prompt), len(text)),))


def _plain(row: Row, eos: str) -> Passage:
    text = text_of(row, "text")
    if not text:
        raise row.refused("its text is empty.")
    text = _ended(text, eos)
    return Passage(text, ((0, len(text)),))


def _ended(text: str, eos: str) -> str:
    return text if text.endswith(eos) else text + eos


class _Chat:
    """Conversations in the form of the tokenizer's chat template; the loss counts what the assistant says."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if not isinstance(tokenizer.chat_template, str):
            raise OptionError(
                "The data are conversations, and the tokenizer has no chat template for them. Use an instruction "
                "model, or give the rows as prompt and completion."
            )
        self.template: str = tokenizer.chat_template
        self.tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}

    def __call__(self, row: Row) -> Passage:
        messages = _messages(row)
        whole = self._render(row, messages, is_asked=False)
        learned = []
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                if not any(value for name, value in message.items() if name != "role"):
                    raise row.refused(f"message {index + 1}, of the assistant, is empty: there is nothing to learn.")
                before = self._render(row, messages[:index], is_asked=True)
                after = self._render(row, messages[: index + 1], is_asked=False)
                if not (after.startswith(before) and whole.startswith(after)):
                    raise row.refused(
                        f"the chat template writes the start of this conversation differently once message {index + 1} "
                        "and what follows are there, so what to learn cannot be told. Split it so that each row ends "
                        "with the assistant's first answer."
                    )
                learned.append((len(before), len(after)))
        if not learned:
            raise row.refused("no message of it is the assistant's: there is nothing to learn.")
        return Passage(whole, tuple(learned), is_rendered=True)

    def _render(self, row: Row, messages: Sequence[Mapping[str, Any]], *, is_asked: bool) -> str:
        variables = {**self.tokens, "tools": row.values.get("tools"), "add_generation_prompt": is_asked}
        try:
            return render_chat(self.template, messages, variables, "of the tokenizer")
        except OptionError as error:
            raise row.refused(str(error)) from error


def _messages(row: Row) -> list[dict[str, Any]]:
    column = "messages" if "messages" in row.values else "conversations"
    messages = row.values.get(column)
    if not isinstance(messages, list) or not messages:
        raise row.refused(f"column '{column}' must be a list of messages, got {messages!r}.")
    return [_message(row, number, message) for number, message in enumerate(messages, 1)]


def _message(row: Row, number: int, message: object) -> dict[str, Any]:
    if isinstance(message, dict) and "from" in message and "value" in message:
        role = message["from"]
        message = {"role": _ROLES.get(role, role), "content": message["value"]}
    if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
        raise row.refused(f"message {number} must have a role and a content, got {message!r}.")
    return message
