"""From a package to answers, without the model."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cloud.commands import Cli, imported, run_python

from QEfficient import from_package
from QEfficient.store.artifacts import ArtifactStore, write_artifact
from QEfficient.store.manifest import read_artifact

PROMPT = "My name is"
SHORT = ("--generation-len", "6")
TURNS = ("hello", "and then?")


@pytest.fixture(scope="module")
def conversation(package: Path) -> list[dict[str, str]]:
    """TURNS with the model's answers, each made from all that was said before it."""
    messages: list[dict[str, str]] = []
    with from_package(package) as compiled:
        for text in TURNS:
            messages.append({"role": "user", "content": text})
            answer = compiled.generate(messages, generation_len=6).generated_texts[0]
            messages.append({"role": "assistant", "content": answer})
    return messages


def test_imports_neither_torch_nor_transformers(package: Path) -> None:
    asked = ("--prompt", PROMPT, "--generation-len", "3", "--json")
    result, found = imported(("torch", "transformers"), "execute", package, *asked)
    assert (result.code, found) == (0, [])
    assert len(result.json["answers"][0]["token_ids"]) == 3


def test_without_stream(cli: Cli, package: Path, expected: str) -> None:
    assert cli("execute", package, "-p", PROMPT, *SHORT, "--no-stream").out == expected + "\n"


def test_several_prompts(cli: Cli, package: Path, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(f"{PROMPT}\n\nThe capital\n")
    common = ("execute", package, *SHORT)
    repeated = cli(*common, "-p", PROMPT, "-p", "The capital")
    assert repeated.out.startswith(f"> {PROMPT}\n{expected}\n\n> The capital\n")
    assert cli(*common, "--prompts-txt-file-path", file).out == repeated.out


@pytest.mark.parametrize("prompts", [("a|b",), ("if (a || b)", "c")], ids=str)
def test_prompts_are_not_split(prompts: tuple[str, ...], cli: Cli, package: Path) -> None:
    flags = [flag for prompt in prompts for flag in ("-p", prompt)]
    answers = cli("execute", package, *SHORT, *flags, "--json").json["answers"]
    assert [answer["prompt"] for answer in answers] == [*prompts]


@pytest.mark.parametrize("flags", [(), ("-p", "-")], ids=str)
def test_prompt_from_a_pipe(flags: tuple[str, ...], cli: Cli, package: Path) -> None:
    answers = cli("execute", package, *SHORT, *flags, "--json", stdin="a\nb | c\n").json["answers"]
    assert [answer["prompt"] for answer in answers] == ["a\nb | c"]


def test_a_pipe_is_read_once(cli: Cli, package: Path) -> None:
    result = cli("execute", package, "-p", "-", "-p", "-", stdin="a")
    assert (result.code, "only once" in result.err) == (2, True)


def test_a_pipe_of_another_encoding(package: Path) -> None:
    command = [sys.executable, "-m", "QEfficient.cloud.execute", str(package), "-p", "-"]
    ended = subprocess.run(command, input=b"caf\xe9", capture_output=True, timeout=300, check=False)
    assert (ended.returncode, b"is not UTF-8" in ended.stderr) == (2, True)


def test_sampling(cli: Cli, package: Path) -> None:
    sampled = ("execute", package, "-p", PROMPT, *SHORT, "--temperature", "3", "--json")
    first, again, other = (cli(*sampled, "--seed", seed).json["answers"] for seed in "112")
    assert first == again != other


def test_options_of_generation(cli: Cli, package: Path, tmp_path: Path) -> None:
    """As flags, and from a file, before which flags go."""
    options: dict[str, Any] = {"max_new_tokens": 5, "no_repeat_ngram_size": 1, "bad_words_ids": [[5]], "logprobs": 1}
    with from_package(package) as compiled:
        info = compiled.generate(PROMPT, **options)
    flags = ("--no-repeat-ngram-size", "1", "--bad-words-ids", "[[5]]", "--logprobs", "1", "--json")
    (answer,) = cli("execute", package, "-p", PROMPT, "--max-new-tokens", "5", *flags).json["answers"]
    assert answer["token_ids"] == info.generated_ids[0].tolist()
    assert answer["finish_reason"] == info.finish_reasons[0] == "length"
    assert [token["token_id"] for token in answer["logprobs"]] == answer["token_ids"]
    config = tmp_path / "generation_config.json"
    config.write_text('{"max_new_tokens": 9, "no_repeat_ngram_size": 3}')
    common = ("execute", package, "-p", PROMPT, "--generation-config", tmp_path)
    assert cli(*common, "--max-new-tokens", "5", *flags).json["answers"] == [answer]
    assert len(cli(*common, "--json").json["answers"][0]["token_ids"]) == 9
    config.write_text('{"num_beams": 3}')
    result = cli(*common)
    assert (result.code, result.out, "num_beams=3" in result.err) == (2, "", True)


def test_several_answers(cli: Cli, package: Path) -> None:
    several = ("--num-return-sequences", "2", "--temperature", "9", "--seed", "1", *SHORT)
    answers = cli("execute", package, "-p", "a", "-p", "b", *several, "--json").json["answers"]
    assert [answer["prompt"] for answer in answers] == ["a", "a", "b", "b"]
    assert len({tuple(answer["token_ids"]) for answer in answers}) == 4
    shown = cli("execute", package, "-p", "a", *several).out
    assert shown == "".join(
        f"> a\n{answer['text']}\n{gap}" for answer, gap in zip(answers[:2], ("\n", ""), strict=True)
    )
    result = cli("execute", package, "--chat", "-p", "a", *several)
    assert (result.code, "--num-return-sequences is for prompts" in result.err) == (2, True)


def test_prompt_of_a_chat_is_not_split(cli: Cli, package: Path) -> None:
    found = cli("execute", package, *SHORT, "--chat", "-p", "a|b", "--json").json
    user, assistant = found["messages"]
    assert user == {"role": "user", "content": "a|b"}
    with from_package(package) as compiled:
        answer = compiled.generate([user], generation_len=6).generated_texts[0]
    assert assistant == {"role": "assistant", "content": answer}


def test_prompt_that_does_not_fit(cli: Cli, package: Path) -> None:
    result = cli("execute", package, "-p", "z" * 200)
    assert (result.code, result.out) == (1, "")
    assert "--ctx-len 128" in result.err


def test_upstreams_command_line(package: Path) -> None:
    result = run_python(
        *("-m", "QEfficient.cloud.execute", "--model_name", "some/card", "--qpc_path", package, "--prompt", "a|b"),
        *("--device_group", "[0]", "--full-batch-size", "1", *SHORT),
    )
    assert result.code == 0
    assert result.out.startswith("> a\n")
    assert result.err.splitlines()[0] == "warning: device_group: no effect on target 'cpu'."


def test_chat_keeps_the_conversation(cli: Cli, package: Path, conversation: list[dict[str, str]]) -> None:
    prompts = [part for text in TURNS for part in ("-p", text)]
    assert cli("execute", package, "--chat", *prompts, *SHORT, "--json").json["messages"] == conversation
    piped = cli("execute", package, "--chat", *SHORT, stdin="\n".join(["", *TURNS, "/exit", "unheard"]))
    assert piped.code == 0
    assert piped.out == "".join(f"{message['content']}\n" for message in conversation[1::2])


def test_clear_forgets_the_conversation(cli: Cli, package: Path, conversation: list[dict[str, str]]) -> None:
    result = cli("execute", package, "--chat", *SHORT, "--json", stdin="something else\n/clear\nhello\n")
    assert result.json["messages"] == conversation[:2]


def test_a_system_prompt_of_prompts(cli: Cli, package: Path) -> None:
    asked = ("execute", package, "--system", "Be brief.", "-p", "hello", *SHORT, "--json")
    (chat,) = cli(*asked, "--chat").json["messages"][2:]
    assert cli(*asked).json["answers"][0]["text"].strip() == chat["content"].strip()


def test_system_message_comes_first(cli: Cli, package: Path) -> None:
    found = cli("execute", package, "--chat", "--system", "Be brief.", "-p", "hello", *SHORT, "--json").json
    assert [message["role"] for message in found["messages"]] == ["system", "user", "assistant"]


def test_chat_at_a_terminal(package: Path, conversation: list[dict[str, str]]) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "QEfficient.cloud.execute", str(package), "--chat", *SHORT]
    os.write(ours, b"hello\nand then?\n/exit\n")
    found = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=300, check=False)
    os.close(ours)
    os.close(theirs)
    assert found.returncode == 0
    assert found.stdout == "".join(f"{message['content']}\n" for message in conversation[1::2])
    assert found.stderr.startswith("Ctrl-D or /exit ends the chat")


def test_conversation_that_outgrows_the_context(cli: Cli, package: Path) -> None:
    result = cli("execute", package, "--chat", "-p", "z" * 200)
    assert (result.code, result.out) == (1, "")
    assert "--ctx-len 128" in result.err


def test_package_without_tokenizer_takes_that_of_a_card(
    cli: Cli, checkpoint: Path, package: Path, tmp_path: Path
) -> None:
    manifest = read_artifact(package).manifest

    def without_tokenizer(folder: Path) -> dict[str, object]:
        for name in manifest.files:
            if not name.startswith("tokenizer/"):
                shutil.copy(package / name, folder / name)
        return manifest.body

    bare, _ = write_artifact(tmp_path / "bare", "package", {"bare": True}, without_tokenizer)
    asked = ("-p", PROMPT, *SHORT)
    alone = cli("execute", bare.path, *asked)
    assert (alone.code, alone.out) == (1, "")
    assert "has no tokenizer" in alone.err
    helped = cli("execute", bare.path, *asked, "--model-name", checkpoint)
    assert (helped.code, helped.out) == (0, cli("execute", package, *asked).out)


def test_no_package(cli: Cli, tmp_path: Path) -> None:
    result = cli("execute", tmp_path, "-p", "hi")
    assert (result.code, result.out) == (1, "")
    assert "There is no package at" in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize("args", [(), ("a", "--qpc-path", "b")])
def test_one_package_is_needed(cli: Cli, args: tuple[str, ...]) -> None:
    result = cli("execute", *args, "-p", "hi")
    assert result.code == 2
    assert "Give one package folder." in result.err


def test_exported_graph_is_no_package(cli: Cli, checkpoint: Path, package: Path) -> None:
    kept = (entry for entry in ArtifactStore().entries() if (entry.kind, entry.state) == ("onnx", "stored"))
    graph = next(kept)
    result = cli("execute", graph.path, "-p", "hi")
    assert result.code == 1
    assert "not a compiled package" in result.err


def test_full_batch_size_of_another_package(cli: Cli, package: Path) -> None:
    result = cli("execute", package, "-p", "hi", "--full-batch-size", "4")
    assert result.code == 2
    assert "was compiled for 1" in result.err


def test_damaged_package(cli: Cli, package: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(package, tmp_path / "copy"))
    (copy / "model.bin").write_bytes(b"short")
    result = cli("execute", copy, "-p", "hi")
    assert (result.code, result.out) == (1, "")
    assert "model.bin has 5 bytes" in result.err
