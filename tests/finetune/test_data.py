"""Data: every layout says what to learn, and a bad row is named by its file and line."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from finetune.files import Write

from QEfficient.errors import DatasetError, OptionError
from QEfficient.finetune.examples import IGNORED, examples
from QEfficient.finetune.rows import Row, read_rows
from QEfficient.finetune.settings import FinetuneOptions

PAIR = {"prompt": "My name is ", "completion": "John"}


def learned(row: dict[str, Any], tokenizer: Any, **options: Any) -> tuple[str, str]:
    """What an example of this row shows, and what of it the loss counts."""
    (example,) = examples([Row(row, "here")], FinetuneOptions(**options), tokenizer)
    counted = [token for token, label in zip(example.input_ids, example.labels, strict=True) if label != IGNORED]
    assert all(label in (token, IGNORED) for token, label in zip(example.input_ids, example.labels, strict=True))
    return tokenizer.decode(example.input_ids), tokenizer.decode(counted)


def test_prompt_and_completion(tokenizer: Any) -> None:
    assert learned(PAIR, tokenizer) == ("<s>My name is John</s>", "John</s>")


def test_alpaca(tokenizer: Any) -> None:
    row = {"instruction": "Add.", "input": "1 2", "output": "3"}
    text, counted = learned(row, tokenizer)
    assert counted == "3</s>"
    assert text.endswith("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n3</s>")
    assert "### Input" not in learned({**row, "input": ""}, tokenizer)[0]


def test_plain_text(tokenizer: Any) -> None:
    assert learned({"text": "My name"}, tokenizer) == ("<s>My name</s>", "<s>My name</s>")


def test_templates(tokenizer: Any) -> None:
    columns = {"question": "1+1", "answer": "2"}
    options = {"prompt_template": "Q: {question} A: ", "completion_template": "{answer}"}
    assert learned(columns, tokenizer, **options) == ("<s>Q: 1+1 A: 2</s>", "2</s>")


@pytest.mark.parametrize("is_sharegpt", [False, True])
def test_chat_counts_what_the_assistant_says(tokenizer: Any, is_sharegpt: bool) -> None:
    turns = [("user", "Hello"), ("assistant", "Good day"), ("user", "My name?"), ("assistant", "John")]
    names = {"user": "human", "assistant": "gpt"}
    row: dict[str, Any] = {"messages": [{"role": role, "content": text} for role, text in turns]}
    expected = tokenizer.apply_chat_template(row["messages"], tokenize=False)
    if is_sharegpt:
        row = {"conversations": [{"from": names[role], "value": text} for role, text in turns]}
    text, counted = learned(row, tokenizer)
    assert text == expected
    assert "Good day" in counted
    assert "John" in counted
    assert not {"Hello", "name"} & set(counted.replace("<", " ").split())


def test_long_rows_are_cut_and_rows_without_labels_left_out(
    tokenizer: Any, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    rows = read_rows(str(write([{"prompt": "x" * 50, "completion": "y"}, PAIR])))
    with caplog.at_level(logging.WARNING):
        (example,) = examples(rows, FinetuneOptions(context_length=16), tokenizer)
    assert len(example.input_ids) <= 16
    assert "data.jsonl, line 1: its labels are all beyond context_length=16" in caplog.text
    with pytest.raises(DatasetError, match="line 1 and all other rows have their labels beyond context_length=4"):
        examples(rows, FinetuneOptions(context_length=4), tokenizer)


def test_forms_of_files(write: Write, tmp_path: Path) -> None:
    rows = [PAIR, {"prompt": "a\n", "completion": "b"}]
    for path in (
        write(rows),
        write("\n" + json.dumps(rows, indent=1), "list.json"),
        write(rows, "lines.json"),
        write('prompt,completion\nMy name is ,John\n"a\n",b\n', "table.csv"),
    ):
        assert [dict(row.values) for row in read_rows(str(path))] == rows
    assert [row.values for row in read_rows(str(write("one\n\ntwo\n", "text.txt")))] == [
        {"text": "one"},
        {"text": "two"},
    ]
    assert len(read_rows(str(tmp_path))) == 4 * len(rows) + 2


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ('{"text": "a"}', "d.jsonl"), ('[{"text": "a"}]', "d.json"), ('{"text": "a"}', "l.json"),
        ("text\na\n", "d.csv"), ("a\n", "d.txt"),
    ],
)  # fmt: skip
def test_a_mark_of_the_byte_order_is_no_text(write: Write, content: str, name: str) -> None:
    (row,) = read_rows(str(write("\ufeff" + content, name)))
    assert row.values == {"text": "a"}


def test_cells_of_any_size(write: Write) -> None:
    before = csv.field_size_limit()
    (row,) = read_rows(str(write("text\n" + "word " * 40_000, "d.csv")))
    assert len(row.values["text"]) == 200_000
    assert csv.field_size_limit() == before


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.Table.from_pylist([PAIR, PAIR]), tmp_path / "data.parquet")
    rows = read_rows(str(tmp_path / "data.parquet"))
    assert [(row.values, row.where.rpartition(", ")[2]) for row in rows] == [(PAIR, "row 1"), (PAIR, "row 2")]
    (tmp_path / "data.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(DatasetError, match=r"data\.parquet cannot be read as Parquet"):
        read_rows(str(tmp_path / "data.parquet"))


@pytest.mark.parametrize(
    ("content", "name", "match"),
    [
        ('{"text": "a"}\n{"text": ', "d.jsonl", r"d\.jsonl, line 2: no valid JSON"),
        ('{"text": "a"}\n\n[1]\n', "d.jsonl", r"d\.jsonl, line 3: expected a JSON object"),
        ('[\n{"text": "a"},\n{"text": b}\n]', "d.json", r"d\.json, line 3: no valid JSON"),
        ('[\n{"text": "a"}\n{"text": "b"}\n]', "d.json", r"d\.json, line 2: expected ',' or '\]'"),
        ('[{"text": "a"},]', "d.json", r"d\.json, line 1: no valid JSON"),
        ('[{"text": "a"}]\n[{"text": "b"}]', "d.json", r"d\.json: expected nothing after the list of rows, got '\[{"),
        ("[]]", "d.json", r"d\.json: expected nothing after the list of rows, got '\]'"),
        ('{\n"data": []\n}', "d.json", r"d\.json, line 1: no valid JSON: .* Expected a list of rows, or a row on each"),
        pytest.param("[" * 100_000, "d.jsonl", r"d\.jsonl, line 1: no valid JSON: maximum recursion", id="deep lines"),
        pytest.param("[" * 100_000, "d.json", r"d\.json, line 1: no valid JSON: maximum recursion", id="deep list"),
        ("a,b\n1,2\n3\n", "d.csv", r"d\.csv, line 3: expected 2 cells"),
        ("", "d.jsonl", "has no rows"),
        ("a", "d.xml", r"d\.xml: data comes in files that end in \.jsonl"),
    ],
)
def test_files_that_cannot_be_read(write: Write, content: str, name: str, match: str) -> None:
    with pytest.raises(DatasetError, match=match):
        read_rows(str(write(content, name)))


def test_text_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DatasetError, match=r"d\.txt is not UTF-8"):
        read_rows(str(tmp_path / "d.txt"))


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"prompt": "a", "completion": 3}, "line 2: column 'completion' must be text, got 3"),
        ({"prompt": "a"}, "line 2: column 'completion' must be text, got None"),
        ({"prompt": "a", "completion": ""}, "line 2: its completion is empty"),
        ({"prompt": "a", "completion": "\ud83d"}, r"line 2: its text has '\\ud83d', half of a character"),
    ],
)
def test_bad_rows(tokenizer: Any, write: Write, row: dict[str, Any], match: str) -> None:
    rows = read_rows(str(write([PAIR, row])))
    with pytest.raises(DatasetError, match=match):
        examples(rows, FinetuneOptions(), tokenizer)


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        ([], "must be a list of messages"),
        ([{"role": "user", "content": "a"}], "no message of it is the assistant's"),
        (["a"], "message 1 must have a role and a content"),
        ([{"role": "assistant", "content": ""}], "message 1, of the assistant, is empty"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": None}], "message 2, of the assistant, is"),
        ([{"role": "assistant", "content": "\ud83d"}], "surrogates not allowed"),
    ],
)
def test_bad_conversations(tokenizer: Any, write: Write, messages: list[Any], match: str) -> None:
    with pytest.raises(DatasetError, match=f"line 1: .*{match}"):
        examples(read_rows(str(write([{"messages": messages}]))), FinetuneOptions(), tokenizer)


def test_columns_of_no_layout(tokenizer: Any, write: Write) -> None:
    with pytest.raises(DatasetError, match=r"line 1: its columns \(a, b\) are those of no layout .*prompt_template"):
        examples(read_rows(str(write([{"a": "1", "b": "2"}]))), FinetuneOptions(), tokenizer)


def test_conversations_need_a_chat_template(write: Write) -> None:
    import tiny_models

    plain = tiny_models.tiny_tokenizer()
    plain.chat_template = None
    rows = read_rows(str(write([{"messages": [{"role": "assistant", "content": "a"}]}])))
    with pytest.raises(OptionError, match="no chat template"):
        examples(rows, FinetuneOptions(), plain)
