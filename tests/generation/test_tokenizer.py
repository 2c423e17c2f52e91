"""The package's tokenizer equals transformers' on text, ids and chats; text streams in whole characters."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import make_dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_models
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, CTRLTokenizer, PreTrainedTokenizerFast

from QEfficient.base.tokenizer_files import save_tokenizer
from QEfficient.errors import LifecycleError, OptionError
from QEfficient.generation.chat_template import render_chat
from QEfficient.generation.space_cleanup import SpaceCleaner, clean_up
from QEfficient.generation.tokenizer import ForeignTokenizer, PackageTokenizer

TEXTS = [
    "My name is John.",
    "",
    " ",
    "  two  spaces \n\n\ttab ",
    "What is the capital of France? Paris , they say . Don 't ask !",
    "naïve café, 東京 and emoji 🎉👩‍👩‍👧 and ½",
    "<s>special</s> inside <|user|> text <pad>",
    "x" * 300,
]


def metaspace_tokenizer() -> Any:
    """Like Llama 2's: spaces as ``▁``, one before the text, and bytes for what has no token."""
    words = ["▁", "▁My", "▁name", "▁is", "▁John", ".", "a", "▁a", "é", "▁say", "x"]
    vocab = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    tokenizer = Tokenizer(
        models.Unigram([(token, -float(i + 1)) for i, token in enumerate(vocab)], unk_id=0, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", chat_template="{{ 1 }}"
    )


def padding_tokenizer() -> Any:
    """A ``tokenizer.json`` that pads and cuts by itself, as encoders' do."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "my", "name", "is", "john", "##s", ".", "what", "the", "capital", "?"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]", length=16)
    tokenizer.enable_truncation(max_length=5)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


PARTS = ["'", "n", "n't", "'t", "t", "'m", "'s", "'ve", "ve", "'re", ".", "?", "!", ",", "do", "I", "we"]


def cleaning_tokenizer(model: str, **flags: bool) -> Any:
    """Words with a space before each, many of which transformers takes out of a text."""
    words = ["[UNK]", *PARTS, *(f"▁{part}" for part in PARTS), "▁", "▁▁"]
    vocab = {word: i for i, word in enumerate(words)}
    made: dict[str, Any] = {
        "unigram": lambda: models.Unigram([(word, -float(i + 1)) for word, i in vocab.items()], unk_id=0),
        "bpe": lambda: models.BPE(vocab, [], unk_token="[UNK]"),
        "wordlevel": lambda: models.WordLevel(vocab, unk_token="[UNK]"),
    }
    tokenizer = Tokenizer(made[model]())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **flags)


FORCED = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
KINDS: dict[str, Callable[[], Any]] = {
    "byte-level": tiny_models.tiny_tokenizer,
    "metaspace": metaspace_tokenizer,
    "wordpiece": padding_tokenizer,
    "cleaned unigram": lambda: cleaning_tokenizer("unigram", clean_up_tokenization_spaces=True),
    "cleaned words": lambda: cleaning_tokenizer("wordlevel", clean_up_tokenization_spaces=True),
    "uncleaned words": lambda: cleaning_tokenizer("wordlevel", clean_up_tokenization_spaces=False),
    "byte pairs that are not cleaned": lambda: cleaning_tokenizer("bpe", clean_up_tokenization_spaces=True),
    "cleaned byte pairs": lambda: cleaning_tokenizer("bpe", clean_up_tokenization_spaces=True, **{FORCED: True}),
}


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PackageTokenizer, Any]:
    """The tokenizer of a folder, opened by us and by transformers."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(KINDS[request.param](), folder, "tiny")
    return PackageTokenizer(folder), AutoTokenizer.from_pretrained(folder)


def random_ids(theirs: Any, seed: int) -> list[int]:
    random = np.random.default_rng(seed)
    return random.integers(0, len(theirs), random.integers(0, 40)).tolist()


def test_encodes_as_transformers(both: tuple[PackageTokenizer, Any]) -> None:
    ours, theirs = both
    for text in TEXTS:
        for special in (True, False):
            expected = theirs(text, add_special_tokens=special)["input_ids"]
            assert ours.encode(text, add_special_tokens=special) == expected, text
            assert ForeignTokenizer(theirs).encode(text, add_special_tokens=special) == expected, text


def test_decodes_as_transformers(both: tuple[PackageTokenizer, Any]) -> None:
    ours, theirs = both
    for ids in [*(theirs(text)["input_ids"] for text in TEXTS), *(random_ids(theirs, seed) for seed in range(100))]:
        for skip in (True, False):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip), ids
            assert ForeignTokenizer(theirs).decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip), ids


def test_streamed_pieces_make_up_the_text(both: tuple[PackageTokenizer, Any]) -> None:
    """Real texts token by token, special tokens among them."""
    ours, theirs = both
    for text in TEXTS:
        ids = ours.encode(text)
        for tokenizer in (ours, ForeignTokenizer(theirs)):
            pieces = list(tokenizer.stream(iter(ids)))
            assert "".join(pieces) == tokenizer.decode(ids), text
            assert all(pieces), "an empty piece says nothing"
            assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces), text


def test_pieces_of_any_tokens_make_up_the_text(both: tuple[PackageTokenizer, Any]) -> None:
    ours, theirs = both
    for ids in (random_ids(theirs, seed) for seed in range(200)):
        for tokenizer in (ours, ForeignTokenizer(theirs)):
            assert "".join(tokenizer.stream(ids)) == theirs.decode(ids, skip_special_tokens=True), ids


def test_spaces_are_cleaned_in_pieces() -> None:
    parts = ["' ", " '", "n", " n", "'", " ", "t", "m", "s", "ve", "re", "v", "e", ".", " .", "?", "can", "n't"]
    for seed in range(5000):
        random = np.random.default_rng(seed)
        text = "".join(random.choice(parts, random.integers(1, 10)))
        cleaner = SpaceCleaner()
        assert "".join(map(cleaner.add, text)) + cleaner.finish() == clean_up(text), text


def test_a_cleaned_stream_waits_for_no_more_than_it_must(tmp_path: Path) -> None:
    tokenizer = KINDS["cleaned words"]()
    tokenizer.save_pretrained(tmp_path)
    ids = tokenizer.convert_tokens_to_ids(["▁we", "▁'", "▁ve", "▁do", "▁n't", "▁I", "▁."])
    stream = PackageTokenizer(tmp_path).text_stream()
    assert [stream.add(token) for token in ids] == ["we", "", "'ve", " do", "n't", " I", "."]


def test_a_stream_of_a_tokenizer_in_python(tmp_path: Path) -> None:
    """CTRL marks what goes on in the next token with ``@@``, which is in a text that ends there, and nowhere else."""
    (tmp_path / "vocab.json").write_text(json.dumps({"<unk>": 0, "hel@@": 1, "lo": 2, "wor@@": 3, "ld": 4, ".": 5}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    for cleans in (False, True):
        theirs = CTRLTokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt", clean_up_tokenization_spaces=cleans)
        tokenizer = ForeignTokenizer(theirs)
        assert list(tokenizer.stream([1, 2, 3, 4])) == ["hello", " world"]
        for ids in (random_ids(theirs, seed) for seed in range(100)):
            assert "".join(tokenizer.stream(ids)) == tokenizer.decode(ids), ids


@pytest.mark.parametrize("names", [["input_ids", "attention_mask"], ["input_ids", "token_type_ids"]])
def test_segments_are_those_of_transformers(tmp_path: Path, names: list[str]) -> None:
    theirs = padding_tokenizer()
    theirs.model_input_names = names
    save_tokenizer(theirs, tmp_path, "tiny")
    ids, segments = PackageTokenizer(tmp_path).encode_text("my name", "john")
    expected = theirs("my name", "john")
    assert (ids, segments) == (expected["input_ids"], expected.get("token_type_ids"))


def test_special_tokens_are_split_where_transformers_splits_them(tmp_path: Path) -> None:
    theirs = tiny_models.tiny_tokenizer()
    theirs.split_special_tokens = True
    save_tokenizer(theirs, tmp_path, "tiny")
    assert PackageTokenizer(tmp_path).encode("a</s>b") == theirs("a</s>b")["input_ids"]
    assert 2 not in theirs("a</s>b")["input_ids"]


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> PackageTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_models.tiny_tokenizer().save_pretrained(folder)
    return PackageTokenizer(folder)


def test_a_character_of_several_tokens_is_one_piece(byte_level: PackageTokenizer) -> None:
    ids = byte_level.encode("é東🎉", add_special_tokens=False)
    assert len(ids) == 2 + 3 + 4, "a byte each"
    assert list(byte_level.stream(ids)) == ["é", "東", "🎉"]


def test_what_is_left_of_a_cut_character_is_streamed_too(byte_level: PackageTokenizer) -> None:
    """An answer may end in the middle of a character: its text then has a replacement character."""
    ids = byte_level.encode("a🎉", add_special_tokens=False)[:-1]
    assert byte_level.decode(ids) == "a\N{REPLACEMENT CHARACTER}"
    for tokenizer in (byte_level, ForeignTokenizer(tiny_models.tiny_tokenizer())):
        assert "".join(tokenizer.stream(ids)) == "a\N{REPLACEMENT CHARACTER}"


def test_bytes_that_are_no_text_stream_as_they_decode(byte_level: PackageTokenizer) -> None:
    for seed in range(300):
        ids = np.random.default_rng(seed).integers(0, 320, 40).tolist()
        assert "".join(byte_level.stream(ids)) == byte_level.decode(ids), ids


@pytest.mark.parametrize("is_fast", [True, False])
def test_signs_that_clean_up_moves_stream_as_they_decode(is_fast: bool) -> None:
    """``it ' s`` is ``it's`` once the last token is there, and not before."""
    words = ["it", " '", " s", " .", " do", " n't", " a"]

    class Cleaning:
        clean_up_tokenization_spaces = True

        def decode(
            self, ids: list[int], skip_special_tokens: bool = True, clean_up_tokenization_spaces: bool = True
        ) -> str:
            text = "".join(words[i] for i in ids)
            return clean_up(text) if clean_up_tokenization_spaces else text

    theirs: Any = Cleaning()
    theirs.is_fast = is_fast
    tokenizer = ForeignTokenizer(theirs)
    for seed in range(50):
        ids = np.random.default_rng(seed).integers(0, len(words), 80).tolist()
        assert "".join(tokenizer.stream(ids)) == tokenizer.decode(ids)


def test_streaming_costs_the_same_for_each_token(byte_level: PackageTokenizer) -> None:
    lengths = []

    class Counting(ForeignTokenizer):
        def decode(self, ids: Any, skip_special_tokens: bool = True, **options: bool) -> str:
            lengths.append(len(list(ids)))
            return super().decode(ids, skip_special_tokens, **options)

    list(Counting(tiny_models.tiny_tokenizer()).stream(byte_level.encode("The capital of France is Paris. " * 40)))
    assert max(lengths) < 20


def test_text_comes_with_its_token_and_not_later(byte_level: PackageTokenizer) -> None:
    ids = byte_level.encode("My name is John", add_special_tokens=False)
    taken = []

    def come() -> Any:
        for token_id in ids:
            taken.append(token_id)
            yield token_id

    shown = ""
    for piece in byte_level.stream(come()):
        shown += piece
        assert shown == byte_level.decode(taken)


def test_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(LifecycleError, match="no tokenizer"):
        PackageTokenizer(tmp_path / "tokenizer")


CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Answer in English."},
    {"role": "user", "content": "Wie heißt du? <b>&amp;</b> 東京"},
    {"role": "assistant", "content": "John."},
    {"role": "user", "content": "And the capital of France?"},
]
TEMPLATES = {
    "plain": "{% for m in messages %}\n    {{ m.role }}: {{ m['content'] | trim }}\n{% endfor %}",
    "special tokens": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}",
    "generation prompt": "{% if add_generation_prompt %}yes{% else %}no{% endif %}",
    "loop controls": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "json": "{{ messages | tojson }}|{{ messages[1] | tojson(indent=2) }}",
    "json in ascii": "{{ messages[1] | tojson(ensure_ascii=True) }}",
    "sorted json": "{{ {'b': 1, 'a': [2]} | tojson(sort_keys=True, separators=(',', ':')) }}",
    "tools": "{% if tools is none %}none{% elif tools is defined %}some{% else %}undefined{% endif %}",
    "documents": "{% if documents is none %}none{% endif %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %};{% endfor %}",
    "date": "{{ strftime_now('%Y-%m') }}",
    "dict": "{% set d = dict(a=1) %}{{ d.a }}{{ dict.fromkeys([3, 4], 5) }}",
    "namespace of a dict": "{% set ns = namespace({'n': 2}, self=3) %}{{ ns.n }}{{ ns.self }}",
    "scope of generation": "{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x }}|",
    "macros": "{% macro show(m) %}{{ m.role }}{{ caller() }}{% endmacro %}"
    "{% for m in messages %}{% call show(m) %}:{{ m.content | length }}{% endcall %}{% endfor %}",
    "filters": "{{ messages | map(attribute='role') | unique | join(', ') | title }}{{ 'a b' | wordwrap(1) }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | list | pprint }}{{ 'x' | urlize }}{{ 1.5 | round | int }}",
    "missing key": "{% if 'name' in messages[0] %}named{% endif %}{{ messages[0].name }}",
}


def pair(folder: Path, template: str | None) -> tuple[PackageTokenizer, Any]:
    tokenizer = tiny_models.tiny_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return PackageTokenizer(folder), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", TEMPLATES)
def test_chat_renders_as_in_transformers(tmp_path: Path, name: str) -> None:
    ours, theirs = pair(tmp_path, TEMPLATES[name])
    expected = theirs.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert ours.render_chat(CHAT) == expected
    ids = theirs.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"]
    assert ours.encode_chat(CHAT) == ForeignTokenizer(theirs).encode_chat(CHAT) == ids


RICH: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image", "image": np.zeros(2)}, {"type": "text", "text": "x"}], "n": (1, 2)},
    {"role": "assistant", "reasoning": "so", "content": "", "tool_calls": [{"function": {"arguments": {"a": 1.5}}}]},
    {"role": "tool", "content": {1: np.float32(0.5), "b": np.bool_(False), "c": True, "d": 2**70}},
    {"role": StrEnum("Role", "user").user, "content": SimpleNamespace(x=1), "thinking": "a", "reasoning_content": "b"},
    {"role": "user", "content": make_dataclass("Part", ["x", "y"])("\0\u2028", float("inf"))},
]


def test_rich_messages_are_shown_as_in_transformers(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m }}{{ m | tojson }}{{ m.content is string }}{{ m.reasoning_content }}{% endfor %}"
    )
    ours, theirs = pair(tmp_path, template)
    expected = theirs.apply_chat_template(RICH, tokenize=False, add_generation_prompt=True)
    assert ours.render_chat(RICH) == ForeignTokenizer(theirs).render_chat(RICH) == expected


REASONING: list[dict[str, Any]] = [
    *({name: "so"} for name in ("reasoning_content", "thinking", "reasoning")),
    {"reasoning": "a", "thinking": "b"},
    {"thinking": "a", "reasoning_content": "b"},
    {"reasoning_content": None, "thinking": "", "reasoning": "c"},
    {"reasoning": ["a", {"b": 1}]},
    {},
]


@pytest.mark.parametrize("reasoning", REASONING, ids=str)
def test_reasoning_is_under_every_name_that_templates_read(tmp_path: Path, reasoning: dict[str, Any]) -> None:
    names = "{{ m.reasoning_content }}|{{ m.thinking }}|{{ m.reasoning }}|{{ m.keys() | list }}"
    template = f"{{% for m in messages %}}{names}{{% endfor %}}"
    ours, theirs = pair(tmp_path, template)
    chat = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", **reasoning}]
    expected = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert ours.render_chat(chat) == ForeignTokenizer(theirs).render_chat(chat) == expected


def test_tools_and_documents_are_shown_as_in_transformers(tmp_path: Path) -> None:
    _, theirs = pair(
        tmp_path, "{{ tools | tojson }}{% for d in documents %}{{ d.title }}{{ d }}{% endfor %}{{ bos_token }}"
    )
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"required": ("a", "b")}}}]
    documents = [{"title": "<t>", "text": "é"}]
    expected = theirs.apply_chat_template(CHAT, tokenize=False, tools=tools, documents=documents)
    variables = {"tools": tools, "documents": documents, **theirs.special_tokens_map}
    assert render_chat(theirs.chat_template, CHAT, variables, "t") == expected


def test_a_tokenizer_with_a_way_of_its_own_to_render(tmp_path: Path) -> None:
    class Own(PreTrainedTokenizerFast):
        def apply_chat_template(self, messages: Any, **options: Any) -> str:  # type: ignore[override]
            return f"{len(messages)} messages"

    tiny_models.tiny_tokenizer().save_pretrained(tmp_path)
    assert ForeignTokenizer(Own.from_pretrained(tmp_path)).render_chat(CHAT) == "4 messages"


def test_keys_without_a_value_do_not_reach_the_template(tmp_path: Path) -> None:
    ours, theirs = pair(tmp_path, "{{ messages[0].content }}{% if 'tool_calls' in messages[0] %}called{% endif %}")
    chat = [{"role": "user", "content": "hi", "tool_calls": None}]
    assert ours.render_chat(chat) == theirs.apply_chat_template(chat, tokenize=False) == "hi"


def test_date_is_todays(tmp_path: Path) -> None:
    assert pair(tmp_path, TEMPLATES["date"])[0].render_chat(CHAT) == datetime.now().strftime("%Y-%m")


FAULTS = {
    "no chat template": None,
    "roles must alternate": "{{ raise_exception('roles must alternate') }}",
    "unexpected": "{{ messages[0].content + }}",
    "endfor": "{% for m in messages %}{{ m }}",
    "has no attribute": "{{ messages[0].name.first }}",
    "unsafe": "{{ messages.__class__.__mro__ }}",
}


@pytest.mark.parametrize("words", FAULTS)
@pytest.mark.parametrize("is_foreign", [False, True], ids=["package's", "caller's"])
def test_chat_that_cannot_be_rendered(tmp_path: Path, words: str, is_foreign: bool) -> None:
    ours, theirs = pair(tmp_path, FAULTS[words])
    with pytest.raises(OptionError, match=words):
        (ForeignTokenizer(theirs) if is_foreign else ours).encode_chat(CHAT)


@pytest.mark.parametrize(
    "template",
    [
        "{% set ns = namespace(x=1) %}{% set ns.__class__ = 1 %}",
        "{{ messages.append(1) }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ dict.__class__.__base__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os }}",
    ],
)
def test_template_cannot_leave_its_sandbox(tmp_path: Path, template: str) -> None:
    with pytest.raises(OptionError):
        pair(tmp_path, template)[0].render_chat(CHAT)


def test_files_are_read_as_utf8_wherever_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = pair(tmp_path, "é{{ bos_token }}")
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
    real, encodings = Path.read_text, []
    monkeypatch.setattr(
        Path, "read_text", lambda self, encoding=None, *rest: encodings.append(encoding) or real(self, encoding, *rest)
    )
    assert PackageTokenizer(tmp_path).render_chat(CHAT) == ours.render_chat(CHAT) == "é<s>"
    assert set(encodings) == {"utf-8"}


def test_special_tokens_written_as_objects(tmp_path: Path) -> None:
    ours, _ = pair(tmp_path, "{{ bos_token }}")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["bos_token"] = {"content": "<s>", "lstrip": False, "__type": "AddedToken"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert PackageTokenizer(tmp_path).render_chat(CHAT) == ours.render_chat(CHAT) == "<s>"
