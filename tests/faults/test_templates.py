"""A stranger's chat template ends in time and within its memory, and every failure names it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from click.testing import CliRunner
from faults.test_packages import reseal

from QEfficient import QEFFAutoModelForCausalLM
from QEfficient.cloud.app import app
from QEfficient.errors import OptionError
from QEfficient.generation import template_process
from QEfficient.generation.chat_template import checked_length, render_chat
from QEfficient.generation.package import from_package
from QEfficient.generation.tokenizer import ForeignTokenizer, PackageTokenizer

pytestmark = pytest.mark.xdist_group("fault packages")
CHAT = [{"role": "user", "content": "x"}]
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


def render(template: str, chat: list[dict[str, Any]] = CHAT) -> str:
    return render_chat(template, chat, {}, "t.jinja")


TIME = {
    "two loops": LOOPS,
    "a power": "{{ 9 ** (9 ** 9) }}",
    "a power of a variable": "{% set n = messages | length + 8 %}{{ (n ** (n ** n)) | length }}",
}
MEMORY = {
    "a long text": "{{ 'a' * 10 ** 9 }}",
    "a long list": "{{ [1] * 10 ** 9 }}",
    "a width": "{{ '%1000000000d' % 1 }}",
    "a width of format": "{{ '{:1000000000}'.format(1) }}",
    "a width of a filter": "{{ 'a' | center(10 ** 9) }}",
    "an indent": "{{ messages | tojson(indent=10 ** 9) }}",
    "join": "{{ ([messages[0].content * 10 ** 6] * 10 ** 5) | join }}",
    "replace": "{{ ('x' * 10 ** 5) | replace('x', 'y' * 10 ** 5) }}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "much text": "{% for i in range(99999) %}{{ 'a' * 10 ** 4 }}{% endfor %}",
    "many lists": "{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% set n.x = [n.x, [i] * 999] %}{% endfor %}",
}
RAISING = {
    "OverflowError: .*range": "\n{% for i in range(10 ** 10) %}{% endfor %}",
    "RecursionError": "\n{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "ZeroDivisionError: division by zero": "\n{{ 1 / 0 }}",
    "ZeroDivisionError: integer": "\n{{ messages | length % 0 }}",
    'TypeError: can only concatenate str .not "int"': "\n{{ 'a' + 1 }}",
    "TypeError: .*not JSON serializable": "\n{{ namespace() | tojson }}",
    "TypeError: 'NoneType' object is not iterable": "\n{% for tool in tools %}{% endfor %}",
    "KeyError": "\n{{ '%(x)s' % {} }}",
    "IndexError": "\n{{ '{1}'.format(1) }}",
    "AttributeError|has no attribute": "\n{{ messages[0].x.y }}",
    "no loader": "\n{% include 'x' %}",
    "No filter named": "\n{{ 1 | nosuch }}",
    "unexpected": "\n{{ 1 + }}",
    "unsafe": "\n{{ messages.__class__.__mro__ }}",
}
UNPLACED = {
    "ValueError: Exceeds the limit": "{{ 10 ** 5000 }}",
    "SyntaxError: 'break' outside loop": "{% for m in messages %}{% generation %}{% break %}{% endgeneration %}"
    "{% endfor %}",
    "RecursionError": "{{ " + "(" * 5000 + ")" * 5000 + " }}",
    "UnicodeEncodeError": "{{ '\\ud800' }}",
}


@pytest.mark.parametrize("name", TIME)
def test_template_that_computes_without_end(name: str) -> None:
    began = time.perf_counter()
    with pytest.raises(OptionError, match=r"t\.jinja.*more than 2 s of the processor|t\.jinja.*MiB"):
        render(TIME[name])
    assert time.perf_counter() - began < 2 * template_process.TIME_S + 3
    assert render("{{ messages[0].content }}") == "x"


@pytest.mark.parametrize("name", MEMORY)
def test_template_that_allocates_without_end(name: str) -> None:
    with pytest.raises(OptionError, match=r"t\.jinja.*more than (64 MiB of memory|2 s of the processor)"):
        render(MEMORY[name])
    assert render("{{ messages[0].content }}") == "x"


@pytest.mark.parametrize("words", RAISING)
def test_template_that_fails(words: str) -> None:
    with pytest.raises(OptionError, match=rf"t\.jinja, line 2, cannot render.*{words}"):
        render(RAISING[words])


@pytest.mark.parametrize("words", UNPLACED)
def test_template_that_cannot_be_compiled(words: str) -> None:
    with pytest.raises(OptionError, match=rf"t\.jinja.* cannot render.*{words}"):
        render(UNPLACED[words])


def test_message_of_a_template_is_data() -> None:
    with pytest.raises(OptionError) as error:
        render("{{ raise_exception('\\x1b[2J' + 'a' * 10 ** 6) }}")
    assert len(str(error.value)) < 1200
    assert "\x1b" not in str(error.value)


def test_chat_that_is_nested_without_end() -> None:
    message: dict[str, Any] = {"role": "user", "content": "x"}
    message["self"] = message
    with pytest.raises(OptionError, match=r"t\.jinja"):
        render("{{ messages }}", [message])


def test_text_that_no_tokenizer_should_see() -> None:
    """It fits into the memory; its tokens would take seconds and gigabytes."""
    tokenizer = tiny_models.tiny_tokenizer()
    tokenizer.chat_template = "{{ 'a' * 10500000 }}"
    with pytest.raises(OptionError, match="makes 10,500,000 characters of these messages"):
        ForeignTokenizer(tokenizer).encode_chat(CHAT)
    long = [{"role": "user", "content": "x" * 1_000_000}]
    assert checked_length("x" * 3_000_000, long)


def test_what_a_template_may_use() -> None:
    """A chat of a megabyte, a tenth of the time, and more than half of the memory."""
    long = [{"role": "user", "content": "word " * 200_000}]
    assert len(render("{% for i in range(99999) %}{% endfor %}{{ messages[0].content }}", long)) == 10**6
    assert len(render("{{ messages[0].content * 20 * 10 ** 6 }}")) == 20 * 10**6


def test_limits_are_for_each_rendering() -> None:
    pid = running()
    for number in range(4):
        assert len(render("{{ messages[0].content * 15 * 10 ** 6 }}" + str(number))) > 15 * 10**6
        assert render("{% for i in range(99999) %}{% for j in range(30) %}{% endfor %}{% endfor %}" + str(number))
    assert running() == pid


def running() -> int:
    render("{{ 1 }}")
    process = template_process.PROCESS._process
    assert process is not None
    return process.pid


def test_process_that_was_killed() -> None:
    os.kill(running(), signal.SIGKILL)
    for _ in range(3):
        try:
            assert render("{{ 1 }}") == "1"
        except OptionError as error:
            assert "ended with status -9" in str(error)  # noqa: PT017 (it died while it was asked)


def test_interrupt_while_a_template_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    pid = running()
    with monkeypatch.context() as patch:
        patch.setattr(template_process, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            render("{{ 1 }}")
    assert render("{{ messages[0].content }}") == "x"
    assert running() != pid


def interrupted(*_: object) -> bytes:
    raise KeyboardInterrupt


def test_process_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is too busy to give it its time."""
    running()
    monkeypatch.setattr(template_process, "_WAIT_S", 0.1)
    with pytest.raises(OptionError, match="does not answer"):
        render(LOOPS)


def test_process_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for executable, words in (("/dev/null", "no process can be started"), ("/bin/true", "ended with status 0")):
        template_process.PROCESS.close()
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(OptionError, match=words):
            render("{{ 1 }}")


def test_threads_share_the_process() -> None:
    def num_wrong(number: int) -> int:
        chats = [[{"role": "user", "content": f"{number} {index}"}] for index in range(50)]
        return sum(render("{{ messages[0].content }}", chat) != chat[0]["content"] for chat in chats)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(num_wrong, range(8))) == 0


FORKED = """
import os
from QEfficient.generation.chat_template import checked_length, render_chat
from QEfficient.generation.template_process import PROCESS

def check(name):
    for number in range(200):
        text = f"{name} {number}"
        assert render_chat("{{ messages[0].content }}", [{"role": "user", "content": text}], {}, "t") == text

check("before")
pids = {PROCESS._process.pid}
children = []
for number in range(2):
    pid = os.fork()
    if not pid:
        check(f"child {number}")
        assert PROCESS._process.pid not in pids
        PROCESS.close()
        os._exit(0)
    children.append(pid)
check("parent")
assert {PROCESS._process.pid} == pids
assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
check("after")
print(PROCESS._process.pid, flush=True)
"""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "dev", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_forked_processes_have_one_each() -> None:
    result = run_python(FORKED)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert is_gone(int(result.stdout))


def test_process_ends_with_us() -> None:
    result = run_python(FORKED + "os.kill(os.getpid(), 9)")
    assert result.returncode == -signal.SIGKILL
    assert is_gone(int(result.stdout))


def is_gone(pid: int) -> bool:
    """Within ten seconds."""
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A package."""
    model = QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama"), tokenizer=tiny_models.tiny_tokenizer())
    folder = tmp_path_factory.mktemp("packages") / "decoder"
    with model:
        yield model.compile(folder, target="cpu", ctx_len=32, full_batch_size=2, precision="fp32")


def test_template_of_a_package_that_computes_without_end(source: Path, tmp_path: Path) -> None:
    folder = reseal(source, tmp_path / "copy", "tokenizer/chat_template.jinja", LOOPS.encode())
    with from_package(folder) as compiled:
        with pytest.raises(OptionError, match=r"copy/tokenizer/chat_template\.jinja"):
            compiled.generate(CHAT)  # type: ignore[attr-defined]
        assert compiled.generate([[5, 6]], generation_len=1).generated_ids[0].size  # type: ignore[attr-defined]


@pytest.mark.parametrize("template", [MEMORY["join"], RAISING["ZeroDivisionError: division by zero"]])
def test_template_of_a_package(source: Path, tmp_path: Path, template: str) -> None:
    folder = reseal(source, tmp_path / "copy", "tokenizer/chat_template.jinja", template.encode())
    with from_package(folder) as compiled:
        for call in (compiled.generate, lambda chats: list(compiled.stream(chats))):  # type: ignore[attr-defined]
            with pytest.raises(OptionError, match=r"copy/tokenizer/chat_template\.jinja"):
                call(CHAT)
        assert compiled.generate([[5, 6]], generation_len=1).generated_ids[0].size  # type: ignore[attr-defined]
    result = CliRunner().invoke(app, ["execute", str(folder), "--chat", "-p", "x"])
    assert isinstance(result.exception, OptionError)


def test_template_of_a_checkpoint(source: Path, tmp_path: Path) -> None:
    folder = tiny_models.save(tiny_models.causal_lm("llama"), tmp_path)
    tiny_models.tiny_tokenizer().save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(LOOPS)
    options = ("--target", "cpu", "--ctx-len", "32", "--full-batch-size", "2", "--precision", "fp32")
    result = CliRunner().invoke(app, ["infer", str(folder), "--chat", "-p", "x", *options])
    assert isinstance(result.exception, OptionError)
    assert "chat_template.jinja" in str(result.exception)


@pytest.mark.parametrize("template", [LOOPS, MEMORY["a long text"], RAISING["RecursionError"], {"a": "{{ 1 }}"}])
def test_template_of_the_callers_tokenizer(template: Any) -> None:
    tokenizer = tiny_models.tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(OptionError, match="chat template of the tokenizer"):
        ForeignTokenizer(tokenizer).encode_chat(CHAT)


def test_template_in_the_tokenizers_config(source: Path, tmp_path: Path) -> None:
    template = source / "tokenizer" / "chat_template.jinja"
    assert template.is_file()
    folder = reseal(source, tmp_path / "copy", "tokenizer/tokenizer_config.json", b'{"chat_template": "{{ 1 / 0 }}"}')
    (folder / "tokenizer" / "chat_template.jinja").unlink()
    with pytest.raises(OptionError, match=r"of .*tokenizer_config\.json, line 1,.*ZeroDivisionError"):
        PackageTokenizer(folder / "tokenizer").encode_chat(CHAT)
