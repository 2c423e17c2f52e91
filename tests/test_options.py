"""Options: what is refused and how, and that each says what it is for."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import numpy as np
import option_types
import pytest

import QEfficient
from QEfficient import option_types as typed
from QEfficient import options
from QEfficient.errors import OptionError
from QEfficient.generation.speech_rules import SpeechOptions
from QEfficient.generation.text_options import EncodeOptions, PredictOptions, RankOptions
from QEfficient.generation_options import CallArguments, GenerationOptions, StreamArguments
from QEfficient.option_docs import with_options
from QEfficient.options import (
    BACKENDS,
    HONOURED,
    IGNORED,
    CausalLMCompileOptions,
    CompileOptions,
    EncoderCompileOptions,
    Options,
    SamplingOptions,
)
from QEfficient.tasks import TASKS

CLASSES = [CompileOptions, CausalLMCompileOptions, EncoderCompileOptions, SamplingOptions]


def compile_options() -> list[type[CompileOptions]]:
    """The options of every task."""
    kinds = [item for item in vars(options).values() if isinstance(item, type)]
    return [kind for kind in kinds if issubclass(kind, CompileOptions)]


@pytest.mark.parametrize("kind", CLASSES)
def test_defaults_are_valid(kind: type[Options]) -> None:
    assert kind.parse({}) == kind()


@pytest.mark.parametrize("kind", CLASSES)
def test_each_field_has_help(kind: type[Options]) -> None:
    for field in fields(kind):
        text = kind.help(field.name)
        assert text, field.name
        assert text.endswith("."), text
    assert kind.help("no_such_field") == ""


def test_help_is_the_fields_own() -> None:
    assert CausalLMCompileOptions.help("ctx_len").startswith("Maximum context")
    assert CausalLMCompileOptions.help("num_cores") == CompileOptions.help("num_cores")
    texts = [CausalLMCompileOptions.help(field.name) for field in fields(CausalLMCompileOptions)]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    ("kind", "name", "suggestion"),
    [
        (CausalLMCompileOptions, "ctx_length", "ctx_len"),
        (CausalLMCompileOptions, "prefil_seq_len", "prefill_seq_len"),
        (CompileOptions, "num_core", "num_cores"),
        (EncoderCompileOptions, "seqlen", "seq_len"),
        (SamplingOptions, "temprature", "temperature"),
        (SamplingOptions, "topk", "top_k"),
    ],
)
def test_unknown_name_is_told_the_nearest(kind: type[Options], name: str, suggestion: str) -> None:
    with pytest.raises(OptionError, match=rf"'{name}'\. Did you mean '{suggestion}'\?"):
        kind.parse({name: 1})


def test_unknown_name_that_is_near_to_none() -> None:
    with pytest.raises(OptionError, match="'zzzzzz'") as caught:
        CompileOptions.parse({"zzzzzz": 1})
    assert "Did you mean" not in str(caught.value)


def test_only_options_of_compile_send_to_compiler_options() -> None:
    for kind, is_sent in [(CompileOptions, True), (EncoderCompileOptions, True), (SamplingOptions, False)]:
        with pytest.raises(OptionError) as caught:
            kind.parse({"zzzzzz": 1})
        assert ("compiler_options={...}" in str(caught.value)) == is_sent, kind


REFUSED: list[tuple[type[Options], dict[str, Any], str]] = [
    *(
        (CausalLMCompileOptions, {name: value}, name)
        for name in ("batch_size", "num_devices", "num_cores", "mos", "num_threads", "prefill_seq_len", "ctx_len")
        for value in (0, -2, 1.5, True, "8")
    ),
    (CausalLMCompileOptions, {"full_batch_size": 0}, "full_batch_size"),
    (CausalLMCompileOptions, {"kv_cache_batch_size": -2}, "kv_cache_batch_size"),
    (CausalLMCompileOptions, {"weight_format": "int2"}, "'int8', 'int4'"),
    (CausalLMCompileOptions, {"precision": "fp64"}, "'fp32', 'bf16', 'fp16'"),
    (CausalLMCompileOptions, {"lowering": "magic"}, "'retained', 'paged'"),
    (CausalLMCompileOptions, {"batch_size": 2, "full_batch_size": 4}, "contradict"),
    *(
        (EncoderCompileOptions, {"seq_len": value}, "seq_len")
        for value in (0, -1, (), (32, 0), 32.5, (32, 64.5), True, None, "32", (32, "64"), (32, None))
    ),
    *((SamplingOptions, {"temperature": value}, "temperature") for value in (-0.1, float("nan"), "hot", True)),
    (SamplingOptions, {"temperature": float("inf")}, "temperature"),
    *((SamplingOptions, {"top_p": value}, "top_p") for value in (0.0, -0.5, 1.1, float("nan"), "0.9")),
    *((SamplingOptions, {"min_p": value}, "min_p") for value in (-0.1, 1.1, float("nan"))),
    *((SamplingOptions, {"repetition_penalty": value}, "repetition_penalty") for value in (0, -1.0, float("nan"))),
    *((SamplingOptions, {"top_k": value}, "top_k") for value in (-1, 2.5, "5", True)),
    *((SamplingOptions, {"seed": value}, "seed") for value in (-1, 0.5, "x")),
]


@pytest.mark.parametrize(("kind", "values", "word"), REFUSED, ids=str)
def test_impossible_value_is_refused(kind: type[Options], values: dict[str, Any], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        kind.parse(values)


def test_message_names_the_value() -> None:
    for values in ({"temperature": -0.25}, {"top_p": 1.75}, {"top_k": -3}, {"seed": -7}):
        with pytest.raises(OptionError, match=rf"got {next(iter(values.values()))}"):
            SamplingOptions.parse(values)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0},
        {"temperature": 100},
        {"top_k": 0},
        {"top_p": 1},
        {"min_p": 0},
        {"min_p": 1.0},
        {"repetition_penalty": 0.5},
        {"temperature": np.float32(0.5), "top_k": np.int64(5), "seed": np.int64(3)},
    ],
    ids=str,
)
def test_edges_of_the_ranges_are_allowed(values: dict[str, Any]) -> None:
    options = SamplingOptions.parse(values)
    assert {name: getattr(options, name) for name in values} == values


@pytest.mark.parametrize(
    ("values", "samples"),
    [
        ({}, False),
        ({"seed": 1}, False),
        ({"repetition_penalty": 1.2}, False),
        ({"temperature": 0.7}, True),
        ({"top_k": 5}, True),
        ({"top_p": 0.5}, True),
        ({"min_p": 0.1}, True),
        ({"temperature": 0.0, "top_k": 5}, False),
        ({"do_sample": True}, True),
        ({"do_sample": True, "temperature": 0.0}, False),
        ({"do_sample": False, "temperature": 0.7}, False),
    ],
    ids=str,
)
def test_when_tokens_are_drawn(values: dict[str, Any], samples: bool) -> None:
    assert SamplingOptions.parse(values).samples is samples


@pytest.mark.parametrize(
    ("seq_len", "lengths"), [(32, (32,)), ([128, 32, 128], (32, 128)), ((16,), (16,)), (range(8, 10), (8, 9))]
)
def test_compiled_lengths_ascend(seq_len: Any, lengths: tuple[int, ...]) -> None:
    assert EncoderCompileOptions.parse({"seq_len": seq_len}).seq_lens == lengths


def test_slots() -> None:
    assert CausalLMCompileOptions(batch_size=3).num_slots == 3
    assert CausalLMCompileOptions(full_batch_size=4).num_slots == 4
    assert CausalLMCompileOptions(full_batch_size=4, batch_size=4).num_slots == 4


def test_options_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        SamplingOptions().top_k = 3  # type: ignore[misc]


@pytest.mark.parametrize("kind", compile_options())
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_option_says_who_honours_it(kind: type[CompileOptions], backend: str) -> None:
    silent = [field.name for field in fields(kind) if not kind.support(field.name, backend)]
    assert silent == [], f"declare these with option(), everywhere() or on_cards(): {silent}"


@pytest.mark.parametrize("kind", compile_options())
def test_a_refusal_says_why(kind: type[CompileOptions]) -> None:
    for field in fields(kind):
        for backend in BACKENDS:
            support = kind.support(field.name, backend)
            assert support in (HONOURED, IGNORED) or " " in str(support), (field.name, backend, support)


def test_keyword_arguments_are_typed_as_the_options_are() -> None:
    assert option_types.TARGET.read_text(encoding="utf-8") == option_types.written(), "run python -m option_types"


@pytest.mark.parametrize("name", sorted(name for name in QEfficient.__all__ if name.startswith("QEFFAutoModel")))
def test_help_lists_the_options(name: str) -> None:
    cls = getattr(QEfficient, name)
    assert [field.name for field in fields(cls.options_class) if f"{field.name}: " not in cls.compile.__doc__] == []


ANSWER, STREAM = (GenerationOptions, CallArguments), (GenerationOptions, StreamArguments)
SPOKEN = (SpeechOptions, *ANSWER)
METHODS: dict[str, dict[str, tuple[type[Options], ...]]] = {
    "causal_lm": {"generate": ANSWER, "stream": STREAM},
    "image_text_to_text": {"generate": ANSWER, "stream": STREAM},
    "seq2seq_lm": {"generate": ANSWER, "stream": STREAM},
    "vision2seq": {"generate": ANSWER, "stream": STREAM},
    "speech_seq2seq": {"generate": SPOKEN, "stream": SPOKEN, "transcribe": SPOKEN},
    "encoder": {"encode": (EncodeOptions,)},
    "sequence_classification": {"predict": (PredictOptions,), "rank": (RankOptions,)},
}
"""The methods of each task that take options."""
CASES = [(task, method) for task, methods in METHODS.items() for method in methods]


def methods_of(task: str, name: str) -> list[Any]:
    """Of the model's class and of the package's."""
    return [getattr(cls, name) for cls in (TASKS[task].load_auto_class(), TASKS[task].load_compiled())]


@pytest.mark.parametrize(("task", "name"), CASES)
def test_help_lists_the_options_of_a_call(task: str, name: str) -> None:
    options = {field.name: kind.help(field.name) for kind in METHODS[task][name] for field in fields(kind)}
    for cls in (TASKS[task].load_auto_class(), TASKS[task].load_compiled()):
        shown = " ".join((inspect.getdoc(getattr(cls, name)) or "").split())
        assert [each for each, text in options.items() if f"{each}: {' '.join(text.split())}" not in shown] == [], cls


@pytest.mark.parametrize(("task", "name"), CASES)
def test_editors_know_the_options_of_a_call(task: str, name: str) -> None:
    """All that it takes, and nothing else: the arguments in its signature and the keys of its typed dict."""
    for method in methods_of(task, name):
        parameters = inspect.signature(method).parameters
        (kind,) = (each.annotation for each in parameters.values() if each.kind is each.VAR_KEYWORD)
        assert kind.startswith("Unpack["), kind
        keys = getattr(typed, kind.removeprefix("Unpack[").removesuffix("]")).__annotations__
        options = {field.name for cls in METHODS[task][name] for field in fields(cls)}
        assert options - {*parameters} == {*keys}, method


@pytest.mark.parametrize("task", sorted(TASKS))
def test_no_method_takes_options_without_types(task: str) -> None:
    """But what is refused whatever it is: object."""
    for cls in (TASKS[task].load_auto_class(), TASKS[task].load_compiled()):
        for name in ("compile", "generate", "stream", "transcribe", "encode", "predict", "rank"):
            parameters = inspect.signature(getattr(cls, name, test_defaults_are_valid)).parameters.values()
            kinds = [each.annotation for each in parameters if each.kind is each.VAR_KEYWORD]
            refuses = name == "transcribe" and kinds == ["object"]
            assert refuses or not [kind for kind in kinds if not kind.startswith("Unpack[")], (cls, name)


def test_a_text_keeps_its_end_after_the_list_of_options() -> None:
    doc = """Do it.

    Args:
        first: the first.
        options: see the class
            and another.
        last: the last.
    """
    listed = with_options(doc, RankOptions) or ""
    assert "see the class" not in listed
    assert "another" not in listed
    assert "        options:\n            prompt_name: Name of the model's prompt" in listed
    assert listed.endswith("        last: the last.\n    ")
    assert max(map(len, listed.splitlines())) <= 120
