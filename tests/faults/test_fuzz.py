"""Hostile input at every entry of the library, Python and command line: each call works or raises a QEffError.

Tables say which places are filled with what; hypothesis draws from them, the same cases every time. ``make sweep`` runs
ten times as many.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from click.testing import CliRunner
from faults.hostile import ARGUMENTS, DOCUMENTS, NUMBERS, TEXTS, VALUES, is_typed, paths, replaced
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from QEfficient import QEFFAutoModel, QEFFAutoModelForCausalLM, QEFFCommonLoader
from QEfficient.cloud.app import app
from QEfficient.errors import QEffError
from QEfficient.generation.chat_template import render_chat
from QEfficient.generation.package import from_package
from QEfficient.store.digests import hash_file
from QEfficient.store.manifest import MANIFEST_NAME, FileRecord, read_artifact
from QEfficient.transformers.transform import transform

pytestmark = pytest.mark.xdist_group("fuzz")
IDS = [5, 6, 7]


@pytest.fixture(params=[1, pytest.param(10, marks=pytest.mark.sweep)], ids=["few", "many"])
def scale(request: pytest.FixtureRequest) -> int:
    """How many times the usual number of cases."""
    return int(request.param)


def fuzz(cases: st.SearchStrategy[Any], num_cases: int, check: Callable[[Any], object]) -> None:
    """Run ``check`` over as many cases."""
    options = settings(
        max_examples=num_cases,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    options(given(cases)(check))()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_models.tiny_tokenizer().save_pretrained(folder)
    return tiny_models.save(tiny_models.causal_lm("llama"), folder)


@pytest.fixture(scope="module")
def package(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = QEFFAutoModelForCausalLM.from_pretrained(checkpoint)
    folder = tmp_path_factory.mktemp("packages") / "decoder"
    return model.compile(folder, target="cpu", ctx_len=32, full_batch_size=2, precision="fp32")


@pytest.fixture(scope="module")
def decoder(package: Path) -> Iterator[Any]:
    with from_package(package) as compiled:
        yield compiled


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    model = QEFFAutoModel(tiny_models.encoder(), tokenizer=tiny_models.tiny_tokenizer())
    folder = tmp_path_factory.mktemp("packages") / "encoder"
    with from_package(model.compile(folder, target="cpu", seq_len=16, precision="fp32")) as compiled:
        yield compiled


@contextmanager
def copied(source: Path) -> Iterator[Path]:
    """A copy of a folder to change."""
    with tempfile.TemporaryDirectory() as parent:
        yield Path(shutil.copytree(source, Path(parent) / "copy"))


def command(*args: str) -> None:
    """Run a command of ``qefficient``; ends as it would: with an error of ours, of usage, or none."""
    result = CliRunner().invoke(app, args)
    error = result.exception
    if isinstance(error, QEffError):
        raise error
    if error is not None and not isinstance(error, SystemExit):
        raise error


LOADERS: dict[str, Callable[[Path], object]] = {
    "from_pretrained": lambda folder: QEFFAutoModelForCausalLM.from_pretrained(folder),
    "lowering": lambda folder: QEFFAutoModelForCausalLM.from_pretrained(folder).check_lowering(target="cpu"),
    "encoder": lambda folder: QEFFAutoModel.from_pretrained(folder),
    "any class": lambda folder: QEFFCommonLoader.from_pretrained(folder),
    "inspect": lambda folder: command("inspect", str(folder)),
    "infer": lambda folder: command("infer", str(folder), "--chat", "-p", "x", "--target", "cpu", "--ctx-len", "10000"),
}
"""Every entry that reads a checkpoint; the last ends before it compiles, because the context is too long."""
ENTRIES = st.sampled_from(sorted(LOADERS))


def load(folder: Path, entry: str) -> None:
    is_typed(lambda: LOADERS[entry](folder))


# Checkpoints

EXTRA_KEYS = (
    "auto_map", "architectures", "dtype", "torch_dtype", "quantization_config", "text_config", "rope_parameters",
    "rope_scaling", "transformers_weights", "fusion_config", "eos_token_id", "tie_word_embeddings", "head_dim",
    "generation_config", "attn_implementation", "_attn_implementation", "_name_or_path", "sliding_window",
    "layer_types", "id2label", "num_labels", "is_encoder_decoder", "pruned_heads", "max_new_tokens", "do_sample",
    "pad_token_id", "num_local_experts", "vision_config",
)  # fmt: skip


def test_configs(checkpoint: Path, scale: int) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    changes = st.tuples(st.sampled_from(sorted({*config, *EXTRA_KEYS})), VALUES)

    def check(case: tuple[tuple[str, Any], str]) -> None:
        change, entry = case
        with copied(checkpoint) as folder:
            (folder / "config.json").write_text(json.dumps(config | dict([change])))
            load(folder, entry)

    fuzz(st.tuples(changes, ENTRIES), 50 * scale, check)


JSON_FILES = (
    "config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "vocab.json", "preprocessor_config.json",
)  # fmt: skip


def test_files_of_checkpoints(checkpoint: Path, scale: int) -> None:
    def check(case: tuple[str, bytes, str]) -> None:
        name, content, entry = case
        with copied(checkpoint) as folder:
            (folder / name).write_bytes(content)
            if name == "model.safetensors.index.json":
                (folder / "model.safetensors").unlink()
            load(folder, entry)

    fuzz(st.tuples(st.sampled_from(JSON_FILES), DOCUMENTS, ENTRIES), 40 * scale, check)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_values_in_files_of_checkpoints(checkpoint: Path, scale: int, name: str) -> None:
    document = json.loads((checkpoint / name).read_text())
    places = list(paths(document))
    if name == "generation_config.json":
        places += [
            (key,) for key in ("temperature", "top_k", "max_new_tokens", "do_sample", "stop_strings", "num_beams")
        ]

    def check(case: tuple[tuple[str | int, ...], Any]) -> None:
        with copied(checkpoint) as folder:
            (folder / name).write_text(json.dumps(replaced(document, *case)))
            is_typed(lambda: QEFFAutoModelForCausalLM.from_pretrained(folder).write_side_files(folder / "side files"))

    fuzz(st.tuples(st.sampled_from(places), VALUES), 15 * scale, check)


def test_headers_of_weights(checkpoint: Path, scale: int) -> None:
    content = (checkpoint / "model.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    cases = st.one_of(
        st.tuples(st.sampled_from(list(paths(header))), VALUES).map(
            lambda case: json.dumps(replaced(header, *case)).encode()
        ),
        st.tuples(TEXTS, VALUES).map(lambda case: json.dumps(header | dict([case])).encode()),
        DOCUMENTS,
    )
    sizes = st.one_of(st.none(), st.sampled_from([0, 1, 8, 10**8, 2**63, 2**64 - 1]))

    def check(case: tuple[bytes, int | None, int, str]) -> None:
        entries, told, cut, entry = case
        with copied(checkpoint) as folder:
            length = (len(entries) if told is None else told).to_bytes(8, "little")
            (folder / "model.safetensors").write_bytes(length + entries + data[: len(data) - cut])
            load(folder, entry)

    fuzz(st.tuples(cases, sizes, st.sampled_from([0, 0, 1, 4, 10**6]), ENTRIES), 50 * scale, check)


def test_indexes_of_weights(checkpoint: Path, scale: int) -> None:
    names = st.one_of(
        st.just("part.safetensors"), st.sampled_from(["w.bin", "../x.safetensors", "config.json"]), VALUES
    )
    maps = st.one_of(st.dictionaries(TEXTS, names, max_size=3), VALUES)

    def check(case: tuple[Any, Any, str]) -> None:
        with copied(checkpoint) as folder:
            (folder / "model.safetensors").rename(folder / "part.safetensors")
            index = {"weight_map": case[0], "metadata": case[1]}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
            load(folder, case[2])

    fuzz(st.tuples(maps, VALUES, ENTRIES), 30 * scale, check)


# Packages


def test_bodies_of_packages(package: Path, scale: int) -> None:
    manifest = read_artifact(package).manifest
    body = json.loads(json.dumps(manifest.body))
    places = [path for path in paths(body) if path[0] != "options"]

    def check(case: tuple[tuple[str | int, ...], Any]) -> None:
        with copied(package) as folder:
            (folder / MANIFEST_NAME).write_text(replace(manifest, body=replaced(body, *case)).to_json())
            is_typed(lambda: run(folder))

    numbers = st.sampled_from([-1, 0, 1, 2, 64, 10**6, 10**9, 2**62])
    fuzz(
        st.tuples(st.sampled_from(places), st.one_of(st.just(...), numbers, ARGUMENTS.filter(is_json))),
        40 * scale,
        check,
    )


def is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False).encode()
        return True
    except (TypeError, ValueError):
        return False


def run(folder: Path) -> None:
    with from_package(folder) as compiled:
        compiled.generate([IDS], generation_len=2)  # type: ignore[attr-defined]


def test_manifests(package: Path, scale: int) -> None:
    document = json.loads((package / MANIFEST_NAME).read_text())
    places = list(paths(document))
    contents = st.one_of(
        DOCUMENTS,
        st.tuples(st.sampled_from(places), VALUES).map(lambda case: json.dumps(replaced(document, *case)).encode()),
    )

    def check(content: bytes) -> None:
        with copied(package) as folder:
            (folder / MANIFEST_NAME).write_bytes(content)
            is_typed(lambda: from_package(folder).close())

    fuzz(contents, 30 * scale, check)


SIDE_FILES = (
    "generation_config.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json",
    "tokenizer/chat_template.jinja",
)  # fmt: skip


def test_side_files_of_packages(package: Path, scale: int) -> None:
    manifest = read_artifact(package).manifest
    documents = {name: json.loads((package / name).read_text()) for name in SIDE_FILES if name.endswith(".json")}
    places = [(name, path) for name, document in documents.items() for path in paths(document)]
    changes = st.tuples(st.sampled_from(places), VALUES).map(
        lambda case: (case[0][0], json.dumps(replaced(documents[case[0][0]], case[0][1], case[1])).encode())
    )
    cases = st.one_of(changes, st.tuples(st.sampled_from(SIDE_FILES), DOCUMENTS.filter(bool)))

    def check(case: tuple[str, bytes]) -> None:
        name, content = case
        with copied(package) as folder:
            (folder / name).write_bytes(content)
            files = {**manifest.files, name: FileRecord(len(content), hash_file(folder / name)[0])}
            (folder / MANIFEST_NAME).write_text(replace(manifest, files=files).to_json())
            is_typed(lambda: answer(folder))

    fuzz(cases, 25 * scale, check)


def answer(folder: Path) -> None:
    with from_package(folder) as compiled:
        compiled.generate("My name", generation_len=2, temperature=1.0)  # type: ignore[attr-defined]


ATOMS = (
    "messages", "messages[0].content", "1", "9", "10**6", "'a'", "none", "[1]", "namespace(x=1)", "dict(a=1)", "self",
    "range(99999)", "loop", "'%9999999d'", "cycler(1)", "joiner()", "undefined_name", "0.0", "()", "caller", "lipsum",
)  # fmt: skip
OPERATORS = ("*", "+", "-", "/", "//", "%", "~", "<", "in", "and")
ENDINGS = (
    "|list", "|join", "|length", "|tojson", "|sum", "|sort", "|upper", "|xmlattr", "|batch(0)", "|center(10**9)",
    ".__class__", ".x", "[0]", "[-1]", "['x']", "()", "(1)", ".format(1)", ".items()",
)  # fmt: skip
OPENINGS = ("for x in", "if", "set x =", "include", "call", "generation", "macro", "with")


def joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(" ".join)


EXPRESSIONS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        joined(st.just("("), inner, st.sampled_from(OPERATORS), inner, st.just(")")),
        joined(inner, st.sampled_from(ENDINGS)),
    ),
    max_leaves=4,
)
TAGS = st.one_of(
    joined(st.just("{{"), EXPRESSIONS, st.just("}}")),
    joined(st.just("{%"), st.sampled_from(OPENINGS), EXPRESSIONS, st.just("%}")),
    st.sampled_from(["{% endfor %}", "{% endif %}", "{% break %}", "{{", "%}", "x", "{# #}"]),
)


def test_templates(scale: int) -> None:
    def check(tags: list[str]) -> None:
        is_typed(lambda: render_chat("".join(tags), [{"role": "user", "content": "x"}], {}, "t"))

    fuzz(st.lists(TAGS, min_size=1, max_size=3), 20 * scale, check)


# Calls

PROMPTS = st.one_of(
    ARGUMENTS,
    st.lists(ARGUMENTS, max_size=3),
    st.dictionaries(st.sampled_from(["input_ids", "attention_mask", "token_type_ids", "x"]), ARGUMENTS),
    st.lists(st.dictionaries(st.sampled_from(["role", "content", "x"]), TEXTS, max_size=3), max_size=2),
    st.lists(st.lists(NUMBERS, max_size=3), max_size=3),
)


def test_prompts(decoder: Any, encoder: Any, scale: int) -> None:
    def check(prompts: Any) -> None:
        is_typed(lambda: decoder.generate(prompts, generation_len=1))
        is_typed(lambda: list(decoder.stream(prompts, generation_len=1)))
        is_typed(lambda: encoder.generate(prompts))

    fuzz(PROMPTS, 80 * scale, check)
    assert is_typed(lambda: decoder.generate([IDS], generation_len=1))
    assert is_typed(lambda: encoder.generate([IDS]))


SAMPLING = (
    "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "generation_len", "stream",
    "tokenizer", "no_such_option",
)  # fmt: skip


def test_arguments_of_generate(decoder: Any, scale: int) -> None:
    def check(options: dict[str, Any]) -> None:
        is_typed(lambda: decoder.generate([IDS, IDS], **{"generation_len": 2, **options}))

    fuzz(st.dictionaries(st.sampled_from(SAMPLING), ARGUMENTS, min_size=1, max_size=3), 80 * scale, check)
    assert is_typed(lambda: decoder.generate([IDS], generation_len=1))


COMPILE = (
    "ctx_len", "prefill_seq_len", "full_batch_size", "batch_size", "num_cores", "num_devices", "mxfp6_matmul", "mos",
    "precision", "weight_format", "compiler_options", "lowering", "comp_ctx_lengths_prefill", "kv_cache_batch_size",
    "num_speculative_tokens", "prefill_only", "dry_run", "enable_qnn", "qnn_config", "aic_hw_version", "num_threads",
    "node_precision_info", "mdp_load_partition_config", "no_such_option",
)  # fmt: skip


def test_arguments_of_compile(checkpoint: Path, scale: int) -> None:
    """For a card whose SDK is not here, so that what is possible is not compiled."""
    model = QEFFAutoModelForCausalLM.from_pretrained(checkpoint)

    def check(options: dict[str, Any]) -> None:
        assert not is_typed(lambda: model.compile(**{"target": "cloud-ai-100", **options}))
        is_typed(lambda: transform(model).check_lowering(**{"target": "cpu", **options}))

    cases = st.dictionaries(st.sampled_from((*COMPILE, "target")), ARGUMENTS, min_size=1, max_size=2)
    # No target is the default, cpu, and a dry run prints.
    kept = cases.filter(lambda options: options.get("dry_run") is not True and options.get("target", "") is not None)
    fuzz(kept, 60 * scale, check)


SETTINGS = ("ctx_len", "full_batch_size", "precision", "num_threads", "compiler_options", "device_ids", "seq_len", "x")


def test_arguments_of_from_package(package: Path, scale: int) -> None:
    def check(options: dict[str, Any]) -> None:
        is_typed(lambda: from_package(package, **options).close())

    values = st.one_of(ARGUMENTS.filter(lambda value: not isinstance(value, dict)), st.sampled_from([1, 16, 10**12]))
    fuzz(st.dictionaries(st.sampled_from(SETTINGS), values, min_size=1, max_size=2), 20 * scale, check)


LOAD = ("revision", "cache_dir", "token", "local_files_only", "trust_remote_code", "dtype", "continuous_batching", "x")


def test_arguments_of_from_pretrained(checkpoint: Path, scale: int) -> None:
    def check(options: dict[str, Any]) -> None:
        is_typed(lambda: QEFFAutoModelForCausalLM.from_pretrained(checkpoint, **options))

    fuzz(st.dictionaries(st.sampled_from(LOAD), ARGUMENTS, min_size=1, max_size=2), 30 * scale, check)


# Names and environment

NAMES = st.one_of(
    TEXTS,
    ARGUMENTS,
    st.sampled_from(
        ["~no-such-user-here", "/proc/x", "/dev/null", "/dev/null/x", "x" * 300, ".", "/", "a/b", "a//b", "-"]
    ),
)


def test_names(checkpoint: Path, scale: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = QEFFAutoModelForCausalLM.from_pretrained(checkpoint)

    def check(name: Any) -> None:
        is_typed(lambda: QEFFAutoModelForCausalLM.from_pretrained(name))
        is_typed(lambda: from_package(name))
        if isinstance(name, str):
            is_typed(lambda: command("inspect", "--", name))
            is_typed(lambda: command("execute", "-p", "x", "--", name))
            is_typed(lambda: command("execute", "--prompts-txt-file-path", name, "--", name))
        if name is not None:
            is_typed(lambda: model.compile(name, target="cpu", ctx_len=32, full_batch_size=2, precision="fp32"))

    fuzz(NAMES, 40 * scale, check)


VARIABLES = (
    "QEFF_HOME", "QEFF_TARGET", "QEFF_QAIC_SDK", "QNN_SDK_ROOT", "QEFF_DATA_PATH_TIMEOUT_MS", "QEFF_SIM_THREADS",
    "QEFF_SIM_SKU", "QEFF_SIM_STATUS",
)  # fmt: skip


CALLS: dict[str, Callable[[Any, Path], object]] = {
    "open": lambda model, package: from_package(package).close(),
    "ingredients": lambda model, package: model.package_ingredients(target="cpu"),
    "card": lambda model, package: model.package_ingredients(target="cloud-ai-100-sim"),
    "inspect": lambda model, package: command("cache", "inspect"),
    "verify": lambda model, package: command("cache", "verify"),
    "doctor": lambda model, package: command("doctor"),
    "no target": lambda model, package: model.check_lowering(),
}
"""What reads the environment."""


def test_environment(
    checkpoint: Path, package: Path, scale: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    model = QEFFAutoModelForCausalLM.from_pretrained(checkpoint)
    values = st.one_of(TEXTS, st.sampled_from(["~no-such-user-here", "/proc/x", "/dev/null/x", "9" * 5000, "x" * 300]))

    def check(case: tuple[str, str, str]) -> None:
        name, value, call = case
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            is_typed(lambda: CALLS[call](model, package))

    possible = values.filter(lambda value: "\0" not in value and "\ud800" not in value)
    fuzz(st.tuples(st.sampled_from(VARIABLES), possible, st.sampled_from(sorted(CALLS))), 30 * scale, check)


FLAGS = (
    "--ctx-len", "--target", "--precision", "--prompt", "--generation-len", "--temperature", "--top-k", "--seq-len",
    "--compiler-option", "--full-batch-size", "--device-group", "--revision", "--pooling", "--num-devices", "--chat",
    "--prompts-txt-file-path", "--json", "--comp-ctx-lengths-prefill", "--lowering", "--no-such-flag", "--qnn-config",
)  # fmt: skip


def test_command_lines(checkpoint: Path, package: Path, scale: int) -> None:
    words = st.lists(
        st.one_of(st.sampled_from(FLAGS), TEXTS, st.sampled_from(["1", "-1", "x=y", "[0]", "1,2"])), max_size=5
    )
    commands = st.sampled_from(
        [("inspect", checkpoint), ("execute", package), ("infer", "/dev/null"), ("compile", "/dev/null")]
    )

    def check(case: tuple[tuple[str, Any], list[str]]) -> None:
        (name, subject), flags = case
        is_typed(lambda: command(name, str(subject), *flags))

    fuzz(st.tuples(commands, words), 50 * scale, check)
