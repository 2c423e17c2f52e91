"""A compiled causal LM: every form of prompt, streaming, the checkpoint's defaults, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

from QEfficient import QEFFAutoModelForCausalLM
from QEfficient.errors import ArtifactError, CapacityError, LifecycleError, OptionError
from QEfficient.generation.tasks.causal_lm import CompiledCausalLM

pytestmark = pytest.mark.xdist_group("package")

CTX_LEN = 96
NUM_NEW = 12
TEXTS = ["My name is", "What is the capital of France? The", "a"]
CHAT = [{"role": "user", "content": "The card?"}]


@pytest.fixture(scope="module")
def hf() -> Any:
    return tiny_models.causal_lm("llama")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_models.tiny_tokenizer()


@pytest.fixture(scope="module")
def model(hf: Any, tokenizer: Any) -> QEFFAutoModelForCausalLM:
    """Two slots, so that three prompts use one twice; chunks shorter than the longest prompt."""
    model = QEFFAutoModelForCausalLM(hf, tokenizer=tokenizer)
    model.compile(ctx_len=CTX_LEN, prefill_seq_len=8, full_batch_size=2, precision="fp32")
    return model


@pytest.fixture(scope="module")
def compiled(model: QEFFAutoModelForCausalLM) -> CompiledCausalLM:
    opened = QEFFAutoModelForCausalLM.from_package(model.qpc_path)._open()  # type: ignore[arg-type]
    assert isinstance(opened, CompiledCausalLM)
    return opened


@pytest.fixture(scope="module")
def ids(tokenizer: Any) -> list[list[int]]:
    return [tokenizer(text)["input_ids"] for text in TEXTS]


@pytest.fixture(scope="module")
def expected(hf: Any, ids: list[list[int]]) -> list[list[int]]:
    """Hugging Face's greedy tokens, one prompt at a time."""
    return [reference(hf, row, max_new_tokens=NUM_NEW) for row in ids]


def reference(hf: Any, row: list[int], **options: Any) -> list[int]:
    output = hf.generate(
        torch.tensor([row]),
        attention_mask=torch.ones(1, len(row), dtype=torch.int64),
        do_sample=False,
        pad_token_id=0,
        **options,
    )
    return output[0, len(row) :].tolist()


def answers(info: Any) -> list[list[int]]:
    return [row.tolist() for row in info.generated_ids]


def padded(side: str, form: str | None) -> Callable[[Any], Any]:
    def encode(tokenizer: Any) -> Any:
        tokenizer = tiny_models.tiny_tokenizer()
        tokenizer.padding_side = side
        return tokenizer(TEXTS, padding=True, return_tensors=form)

    return encode


def without_text(tokenizer: Any) -> list[list[int]]:
    return [tokenizer(text)["input_ids"] for text in TEXTS]


FORMS: dict[str, Callable[[Any], Any]] = {
    "texts": lambda tokenizer: TEXTS,
    "tuple of texts": lambda tokenizer: tuple(TEXTS),
    "array of texts": lambda tokenizer: np.array(TEXTS),
    "iterator of texts": lambda tokenizer: iter(TEXTS),
    "lists of ids": without_text,
    "tuples of ids": lambda tokenizer: tuple(map(tuple, without_text(tokenizer))),
    "numpy rows": lambda tokenizer: [np.array(row) for row in without_text(tokenizer)],
    "int32 rows": lambda tokenizer: [np.array(row, np.int32) for row in without_text(tokenizer)],
    "tensor rows": lambda tokenizer: [torch.tensor(row) for row in without_text(tokenizer)],
    "text and ids": lambda tokenizer: [TEXTS[0], without_text(tokenizer)[1], np.array(without_text(tokenizer)[2])],
    "tokenizer output": lambda tokenizer: tokenizer(TEXTS),
    "tokenizer output as a dict": lambda tokenizer: dict(tokenizer(TEXTS)),
    "ids and no mask": lambda tokenizer: {"input_ids": without_text(tokenizer)},
    **{f"padded {side} {form}": padded(side, form) for side in ("left", "right") for form in ("pt", "np", None)},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_several_prompts(
    model: QEFFAutoModelForCausalLM, tokenizer: Any, expected: list[list[int]], form: str
) -> None:
    info = model.generate(FORMS[form](tokenizer), generation_len=NUM_NEW)
    assert answers(info) == expected
    assert info.generated_texts == [tokenizer.decode(row, skip_special_tokens=True) for row in expected]


ONES: dict[str, Callable[[Any], Any]] = {
    "text": lambda tokenizer: TEXTS[1],
    "numpy text": lambda tokenizer: np.str_(TEXTS[1]),
    "list of one text": lambda tokenizer: [TEXTS[1]],
    "ids": lambda tokenizer: without_text(tokenizer)[1],
    "tuple of ids": lambda tokenizer: tuple(without_text(tokenizer)[1]),
    "numpy row": lambda tokenizer: np.array(without_text(tokenizer)[1]),
    "tensor row": lambda tokenizer: torch.tensor(without_text(tokenizer)[1]),
    "numpy batch of one": lambda tokenizer: np.array(without_text(tokenizer)[1])[None],
    "tensor batch of one": lambda tokenizer: torch.tensor(without_text(tokenizer)[1])[None],
    "tokenizer output": lambda tokenizer: tokenizer(TEXTS[1]),
    "tokenizer output in pt": lambda tokenizer: tokenizer(TEXTS[1], return_tensors="pt"),
}


@pytest.mark.parametrize("form", ONES)
def test_every_form_of_one_prompt(
    model: QEFFAutoModelForCausalLM, tokenizer: Any, expected: list[list[int]], form: str
) -> None:
    assert answers(model.generate(ONES[form](tokenizer), generation_len=NUM_NEW)) == expected[1:2]


def test_tokenizer_and_prompts_as_upstream_takes_them(
    model: QEFFAutoModelForCausalLM, tokenizer: Any, expected: list[list[int]]
) -> None:
    for info in (
        model.generate(tokenizer, TEXTS, generation_len=NUM_NEW),
        model.generate(tokenizer=tokenizer, prompts=TEXTS, generation_len=NUM_NEW),
        model.generate(TEXTS, tokenizer=tokenizer, generation_len=NUM_NEW),
    ):
        assert answers(info) == expected


def test_callers_tokenizer_is_the_one_that_is_used(
    model: QEFFAutoModelForCausalLM, tokenizer: Any, expected: list[list[int]]
) -> None:
    other = tiny_models.tiny_tokenizer()
    other.add_tokens(["My name"])
    with pytest.raises(OptionError, match="token id 320"):
        model.generate(other, TEXTS, generation_len=1)


def test_chats(model: QEFFAutoModelForCausalLM, hf: Any, tokenizer: Any) -> None:
    row = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"]
    longer = [*CHAT, {"role": "assistant", "content": "Is here."}, {"role": "user", "content": "More"}]
    rows = [row, tokenizer.apply_chat_template(longer, add_generation_prompt=True)["input_ids"]]
    wanted = [reference(hf, row, max_new_tokens=NUM_NEW) for row in rows]
    assert answers(model.generate(CHAT, generation_len=NUM_NEW)) == wanted[:1]
    assert answers(model.generate([CHAT, longer], generation_len=NUM_NEW)) == wanted
    assert answers(model.generate(tokenizer, [CHAT, longer], generation_len=NUM_NEW)) == wanted


def test_chat_without_a_template(
    model: QEFFAutoModelForCausalLM, compiled: CompiledCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled.tokenizer(), "chat_template", None)
    with pytest.raises(OptionError, match="no chat template"):
        compiled.generate(CHAT)
    plain = tiny_models.tiny_tokenizer()
    plain.chat_template = None
    with pytest.raises(OptionError, match="no chat template"):
        model.generate(plain, CHAT)


def test_package_answers_as_the_model_it_came_from(
    compiled: CompiledCausalLM, expected: list[list[int]], tokenizer: Any
) -> None:
    info = compiled.generate(TEXTS, generation_len=NUM_NEW)
    assert answers(info) == expected
    assert info.generated_texts == [tokenizer.decode(row, skip_special_tokens=True) for row in expected]


def test_info_has_the_numbers(model: QEFFAutoModelForCausalLM) -> None:
    info = model.generate(TEXTS, generation_len=[NUM_NEW, 3, 1])
    metrics = info.perf_metrics
    assert info.batch_size == 2
    assert model.generate(TEXTS[0], generation_len=2).batch_size == 1
    assert 0 < metrics.prefill_time < metrics.total_time
    assert metrics.decode_perf > 0
    assert metrics.total_perf == pytest.approx((NUM_NEW + 3 + 1) / metrics.total_time)
    assert all(isinstance(row, np.ndarray) and row.dtype == np.int64 for row in info.generated_ids)
    assert all(text in str(info) for text in info.generated_texts)
    assert "tokens/s" in str(info)


def test_length_for_each_prompt(model: QEFFAutoModelForCausalLM, expected: list[list[int]]) -> None:
    wanted = [row[:most] for row, most in zip(expected, (3, 1, 7), strict=True)]
    for lengths in ([3, 1, 7], (3, 1, 7), np.array([3, 1, 7])):
        assert answers(model.generate(TEXTS, generation_len=lengths)) == wanted
    assert answers(model.generate(TEXTS[:2], generation_len=[None, 1]))[1] == expected[1][:1]
    assert answers(model.generate(TEXTS, generation_len=np.int64(2))) == [row[:2] for row in expected]


def test_length_left_open_fills_the_context(model: QEFFAutoModelForCausalLM, ids: list[list[int]]) -> None:
    rows = answers(model.generate(TEXTS))
    for row, prompt in zip(rows, ids, strict=True):
        assert len(row) == CTX_LEN - len(prompt) or row[-1] == 2


@pytest.mark.parametrize("as_list", [False, True])
def test_end_token_is_the_last_id(
    compiled: CompiledCausalLM,
    hf: Any,
    ids: list[list[int]],
    expected: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
    as_list: bool,
) -> None:
    end = expected[0][4]
    eos = [end, expected[1][2]] if as_list else end
    monkeypatch.setitem(compiled.generation_config, "eos_token_id", eos)
    wanted = [reference(hf, row, max_new_tokens=NUM_NEW, eos_token_id=eos) for row in ids]
    found = answers(compiled.generate(TEXTS, generation_len=NUM_NEW))
    assert found == wanted
    assert found[0][-1] == end
    assert len(found[0]) < NUM_NEW


def test_special_tokens_are_not_in_the_text(
    compiled: CompiledCausalLM, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = iter([[[4, 40, 41, 2]], [[4, 40, 41, 2]]])
    monkeypatch.setattr(compiled, "engine", FixedEngine(compiled.engine, next(rows)))
    info = compiled.generate("a")
    assert answers(info) == [[4, 40, 41, 2]]
    assert info.generated_texts == [compiled.tokenizer().decode([40, 41])]


class FixedEngine:
    """An engine that gives fixed answers, token by token over all requests in turn."""

    def __init__(self, real: Any, rows: list[list[int]]):
        self.session, self.rows = real.session, rows

    def run(self, requests: list[Any]) -> Iterator[Any]:
        from QEfficient.generation.request import NewToken

        for place in range(max(map(len, self.rows))):
            for index, row in enumerate(self.rows):
                if place < len(row):
                    yield NewToken(index, row[place], "length" if place == len(row) - 1 else None)


def test_stream_prints_in_the_prompts_order(
    model: QEFFAutoModelForCausalLM, capsys: pytest.CaptureFixture[str]
) -> None:
    info = model.generate(TEXTS, generation_len=[NUM_NEW, 3, NUM_NEW], stream=True)
    assert capsys.readouterr().out == "".join(f"{text}\n" for text in info.generated_texts)
    model.generate(TEXTS[0], generation_len=2)
    assert capsys.readouterr().out == "", "silent unless asked"


def test_stream_calls_a_function(model: QEFFAutoModelForCausalLM, capsys: pytest.CaptureFixture[str]) -> None:
    pieces: list[str] = []
    info = model.generate(TEXTS, generation_len=NUM_NEW, stream=pieces.append)
    assert "".join(pieces) == "".join(info.generated_texts)
    assert len(pieces) > 6, "as it comes, not at the end"
    assert capsys.readouterr().out == ""


def test_stream_yields_the_text(model: QEFFAutoModelForCausalLM, tokenizer: Any) -> None:
    for text in TEXTS:
        wanted = model.generate(text, generation_len=40).generated_texts[0]
        assert "".join(model.stream(text, generation_len=40)) == wanted
        assert "".join(model.stream(text, generation_len=40, tokenizer=tokenizer)) == wanted
        assert "".join(model.stream(tokenizer(text), generation_len=40)) == wanted


def test_characters_of_several_tokens_stay_whole(
    compiled: CompiledCausalLM, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two answers side by side, each character of two to four tokens; the second ends in the middle of one."""
    texts = compiled.tokenizer()
    rows = [texts.encode("né 東🎉!", add_special_tokens=False), texts.encode("🎉é", add_special_tokens=False)[:-1]]
    monkeypatch.setattr(compiled, "engine", FixedEngine(compiled.engine, rows))
    pieces: list[str] = []
    assert compiled.generate(TEXTS[:2], stream=pieces.append).generated_texts == ["né 東🎉!", "🎉\ufffd"]
    assert pieces == ["n", "é", " ", "東", "🎉", "!", "🎉", "\ufffd"]
    compiled.generate(TEXTS[:2], stream=True)
    assert capsys.readouterr().out == "né 東🎉!\n🎉\ufffd\n"
    monkeypatch.setattr(compiled, "engine", FixedEngine(compiled.engine, rows[1:]))
    assert list(compiled.stream("a")) == ["🎉", "\ufffd"]


def test_stream_comes_while_it_is_made(compiled: CompiledCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = count_steps(compiled, monkeypatch)
    pieces = compiled.stream("a", generation_len=60)
    next(pieces)
    assert len(steps) < 30
    pieces.close()
    before = len(steps)
    assert list(pieces) == []
    assert len(steps) == before, "closing cancels"


def count_steps(compiled: CompiledCausalLM, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    steps: list[int] = []
    step = compiled.engine.session.step
    monkeypatch.setattr(compiled.engine.session, "step", lambda chunks: steps.append(len(chunks)) or step(chunks))
    return steps


def test_stream_takes_one_prompt(model: QEFFAutoModelForCausalLM) -> None:
    with pytest.raises(OptionError, match="yields one answer, got 3"):
        model.stream(TEXTS)


TOO_MUCH: dict[str, tuple[Any, str]] = {
    "empty": ([[]], "Prompt 0 is empty"),
    "empty among others": ([[5, 6], []], "Prompt 1 is empty"),
    "empty row of an array": (np.zeros((1, 0), np.int64), "empty"),
    "as long as the context": ([[5] * CTX_LEN], rf"{CTX_LEN} tokens.*ctx_len={CTX_LEN}"),
    "longer": ([[5], [5] * 200], rf"Prompt 1 has 200 tokens.*ctx_len={CTX_LEN}"),
    "long text": ("Paris " * 200, f"ctx_len={CTX_LEN}"),
    "no prompt": ([], "No prompt"),
    "no prompt in an array": (np.zeros((0,), np.int64), "No prompt"),
    "nothing": (None, "No prompt"),
    "no row in a tokenizer's output": ({"input_ids": [], "attention_mask": []}, "No prompt"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_does_not_fit_runs_nothing(compiled: CompiledCausalLM, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    prompts, words = TOO_MUCH[name]
    steps = count_steps(compiled, monkeypatch)
    with pytest.raises(CapacityError, match=words):
        compiled.generate(prompts)
    assert not steps


@pytest.mark.parametrize(("prompt", "words"), [([5] * CTX_LEN, f"{CTX_LEN} tokens"), ([[]], "empty"), ([], "No")])
def test_stream_refuses_when_it_is_called(compiled: CompiledCausalLM, prompt: Any, words: str) -> None:
    with pytest.raises(CapacityError, match=words):
        compiled.stream(prompt)


BAD_PROMPTS: dict[str, Any] = {
    "a number": 5,
    "a message, not a list of them": CHAT[0],
    "a mapping without ids": {"ids": [1, 2]},
    "rows of something": [object()],
    "floats": [[0.5, 1.5]],
    "a float array": np.zeros((1, 3)),
    "bytes": b"My name",
    "nested too deep": [[[1, 2]]],
}


@pytest.mark.parametrize("name", BAD_PROMPTS)
def test_what_is_no_prompt_is_told_what_is_one(compiled: CompiledCausalLM, name: str) -> None:
    with pytest.raises(OptionError, match="prompt"):
        compiled.generate(BAD_PROMPTS[name])


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("temprature", "temperature"),
        ("top_kk", "top_k"),
        ("repetition_penalti", "repetition_penalty"),
        ("generation_length", "generation_len"),
        ("streem", "stream"),
        ("tokeniser", "tokenizer"),
    ],
)
def test_misspelt_option_names_the_nearest(compiled: CompiledCausalLM, name: str, suggestion: str) -> None:
    for verb in (compiled.generate, compiled.stream):
        if suggestion != "stream" or verb == compiled.generate:
            with pytest.raises(OptionError, match=rf"'{name}'\. Did you mean '{suggestion}'\?"):
                verb("a", **{name: 1})


@pytest.mark.parametrize(
    "options",
    [
        {"generation_len": [1, 2]},
        {"generation_len": [1, 2, 3, 4]},
        {"temperature": [0.5]},
        {"seed": [1, 2, 3, 4]},
        {"top_k": np.array([1, 2])},
    ],
    ids=str,
)
def test_list_of_the_wrong_length(compiled: CompiledCausalLM, options: dict[str, Any]) -> None:
    (name, values) = next(iter(options.items()))
    with pytest.raises(OptionError, match=rf"{name} has {len(values)} values for 3 prompts"):
        compiled.generate(TEXTS, **options)


@pytest.mark.parametrize("length", [0, -3, 2.5, "8", True, [4, 0, 4], "all"], ids=str)
def test_impossible_length(compiled: CompiledCausalLM, length: Any) -> None:
    with pytest.raises(OptionError, match="generation_len"):
        compiled.generate(TEXTS, generation_len=length)


def test_a_list_gives_each_prompt_its_own_option(compiled: CompiledCausalLM) -> None:
    """As each prompt gets it alone, whatever the form of the list."""
    options = {"temperature": [0.0, 0.8, 1.5], "seed": [1, 2, 3], "top_k": 50}
    alone = [
        answers(compiled.generate(text, generation_len=NUM_NEW, temperature=t, seed=seed, top_k=50))[0]
        for text, t, seed in zip(TEXTS, options["temperature"], options["seed"], strict=True)  # type: ignore[arg-type]
    ]
    as_arrays = {"temperature": np.array([0.0, 0.8, 1.5]), "seed": np.array([1, 2, 3]), "top_k": np.full(3, 50)}
    for given in (options, as_arrays, {**options, "top_k": (50, 50, 50)}):
        assert answers(compiled.generate(TEXTS, generation_len=NUM_NEW, **given)) == alone


def test_sampling_is_asked_for_and_repeats(compiled: CompiledCausalLM, expected: list[list[int]]) -> None:
    def sampled(**options: Any) -> list[list[int]]:
        return answers(compiled.generate(TEXTS, generation_len=NUM_NEW, **options))

    assert sampled(temperature=1.5, seed=3) == sampled(temperature=1.5, seed=3) != expected
    assert sampled(temperature=1.5, seed=3) != sampled(temperature=1.5, seed=4)
    assert sampled(temperature=1.5, do_sample=False) == expected
    assert sampled(temperature=0.0) == expected
    assert sampled(top_k=1) == expected
    assert sampled(temperature=None, top_p=None) == expected, "None is not given"


def test_repetition_penalty_of_the_checkpoint_holds_for_greedy_too(
    compiled: CompiledCausalLM,
    hf: Any,
    ids: list[list[int]],
    expected: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(compiled.generation_config, "repetition_penalty", 1.8)
    wanted = [reference(hf, row, max_new_tokens=NUM_NEW, repetition_penalty=1.8) for row in ids]
    assert wanted != expected
    assert answers(compiled.generate(TEXTS, generation_len=NUM_NEW)) == wanted
    assert answers(compiled.generate(TEXTS, generation_len=NUM_NEW, repetition_penalty=1.0)) == expected
    assert answers(compiled.generate(TEXTS, generation_len=NUM_NEW, repetition_penalty=None)) == wanted


@pytest.mark.parametrize("name", ["temperature", "top_k", "top_p", "min_p"])
def test_sampling_takes_the_checkpoints_values(
    compiled: CompiledCausalLM, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A value that leaves only the likeliest token makes sampling greedy."""
    value = {"temperature": 1e-6, "top_k": 1, "top_p": 1e-6, "min_p": 1.0}[name]

    def sampled(**options: Any) -> list[list[int]]:
        return answers(compiled.generate(TEXTS, generation_len=NUM_NEW, seed=0, **options))

    monkeypatch.setitem(compiled.generation_config, "temperature", 2.0)
    assert sampled(do_sample=True) != expected
    monkeypatch.setitem(compiled.generation_config, name, value)
    assert sampled(do_sample=True) == expected
    assert sampled(do_sample=True, **{name: 1.0 if name != "min_p" else 0.0, "top_k": 0}) != expected, "ours win"


def test_whether_to_sample_is_not_the_checkpoints_choice(
    compiled: CompiledCausalLM, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("do_sample", True), ("temperature", 2.0), ("top_k", 40)):
        monkeypatch.setitem(compiled.generation_config, name, value)
    assert answers(compiled.generate(TEXTS, generation_len=NUM_NEW)) == expected


def test_nothing_compiled_yet(hf: Any) -> None:
    for verb in ("generate", "stream"):
        with pytest.raises(LifecycleError, match="compile"):
            getattr(QEFFAutoModelForCausalLM(hf), verb)("a")


def test_package_without_a_tokenizer(hf: Any, tokenizer: Any, ids: list[list[int]], expected: list[list[int]]) -> None:
    bare = QEFFAutoModelForCausalLM(hf)
    bare.compile(ctx_len=CTX_LEN, prefill_seq_len=8, full_batch_size=2, precision="fp32")
    info = bare.generate(ids, generation_len=NUM_NEW)
    assert answers(info) == expected
    assert info.generated_texts == []
    assert bare.generate(tokenizer, TEXTS, generation_len=NUM_NEW).generated_texts[0]
    for prompts in (TEXTS, CHAT, [ids[0], TEXTS[0]]):
        with pytest.raises(LifecycleError, match="tokenizer"):
            bare.generate(prompts)
    with pytest.raises(LifecycleError, match="tokenizer"):
        bare.generate(ids, stream=True)
    with pytest.raises(LifecycleError, match="tokenizer"):
        bare.stream(ids[0])


def test_tokenizer_is_read_once(compiled: CompiledCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large vocabulary takes a second to read."""
    first = compiled.generate("a", generation_len=1).generated_texts
    monkeypatch.setattr("QEfficient.generation.compiled_model.open_tokenizer", None)
    assert compiled.generate("a", generation_len=1).generated_texts == first


def test_inputs_as_transformers_takes_them(
    model: QEFFAutoModelForCausalLM, tokenizer: Any, expected: list[list[int]]
) -> None:
    inputs = tokenizer(TEXTS, padding=True, padding_side="left", return_tensors="pt")
    assert answers(model.generate(**inputs, generation_len=NUM_NEW)) == expected
    assert answers(model.generate(input_ids=inputs["input_ids"][:1, -2:], generation_len=1))
    with pytest.raises(OptionError, match="either prompts or input_ids"):
        model.generate(TEXTS, **inputs)


def test_upstreams_arguments_about_cards(
    model: QEFFAutoModelForCausalLM, tokenizer: Any, expected: list[list[int]]
) -> None:
    assert answers(model.generate(tokenizer, TEXTS, [0], True, generation_len=NUM_NEW)) == expected
    with pytest.raises(OptionError, match="target='cpu'"):
        model.generate(TEXTS, runtime_ai100=False)


def test_package_of_a_target_that_is_not_known(compiled: CompiledCausalLM) -> None:
    body = replace(compiled.body, target="abacus")
    with pytest.raises(ArtifactError, match=r"'abacus'.*cpu"):
        CompiledCausalLM(compiled.artifact, body)


def test_checkpoints_length_holds_where_none_is_given(
    compiled: CompiledCausalLM, ids: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(compiled.generation_config, "max_new_tokens", 3)
    assert [len(row) for row in compiled.generate(ids).generated_ids] == [3] * len(ids)
    assert [len(row) for row in compiled.generate(ids, generation_len=5).generated_ids] == [5] * len(ids)
