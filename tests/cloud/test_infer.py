"""From a card to answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import image_text_models
import pytest
from cloud.commands import COMPILE, Cli, run_python
from image_text.pictures import images

from QEfficient.store.artifacts import ArtifactStore

PROMPT = "My name is"
SHORT = ("--generation-len", "6")


def test_answer_is_the_only_thing_on_stdout(cli: Cli, checkpoint: Path, package: Path, expected: str) -> None:
    result = cli("infer", checkpoint, *COMPILE, "--prompt", PROMPT, *SHORT)
    assert (result.code, result.out) == (0, expected + "\n")
    assert result.err.startswith("[prefill ")
    assert len(result.err.splitlines()) == 1


def test_json(cli: Cli, checkpoint: Path, package: Path, expected: str) -> None:
    found = cli("infer", checkpoint, *COMPILE, "-p", PROMPT, *SHORT, "--json").json
    assert found["package"] == str(package)
    (answer,) = found["answers"]
    assert (answer["prompt"], answer["text"]) == (PROMPT, expected)
    assert len(answer["token_ids"]) == 6
    assert found["batch_size"] == 1
    assert found["perf_metrics"]["total_time"] > 0


def test_upstreams_command_line(checkpoint: Path, package: Path, expected: str) -> None:
    flags = "--batch_size 1 --prompt_len 128 --ctx_len 128 --num_cores 16 --device_group [0] --mos 1"
    result = run_python(
        *("-m", "QEfficient.cloud.infer", "--model_name", checkpoint, *flags.split(), "--aic_enable_depth_first"),
        *("--precision", "fp32", "--prompt", PROMPT, "--generation_len", "6"),
    )
    assert (result.code, result.out) == (0, expected + "\n")
    warning = "warning: --aic-enable-depth-first, --mos, --num-cores, --device-group: no effect on target 'cpu'."
    assert result.err.splitlines()[0] == warning


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "Which model?"),
        (("a", "--model-name", "b"), "Two models"),
        (("a", "--system", "x", "--pair", "a", "b"), "--system is for prompts of text"),
        (("a", "--generation-len", "0"), "--generation-len must be at least 1"),
        (("a", "--top-p", "2"), "--top-p must be"),
        (("a", "--prompts-txt-file-path", "x"), "either a prompt or a file"),
        (("a", "--mxfp6"), "--mxfp6-matmul: cpu has no MXFP6"),
    ],
)
def test_bad_usage(cli: Cli, args: tuple[str, ...], message: str) -> None:
    result = cli("infer", *args, "--prompt", "hi")
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_no_prompt(cli: Cli) -> None:
    result = cli("infer", "some/card")
    assert (result.code, result.out) == (2, "")
    assert "Use --prompt, --prompts-txt-file-path or --chat, or pipe text in." in result.err


def test_no_such_card(cli: Cli) -> None:
    result = cli("infer", "nobody/nothing", "-p", "hi")
    assert (result.code, result.out) == (1, "")
    assert len(result.err.splitlines()) == 1
    assert result.err.startswith("error: There is no folder 'nobody/nothing'")


def test_encoder(cli: Cli, encoder: Path) -> None:
    common = ("infer", encoder, "--seq-len", "16,32", "--pooling", "mean", "-p", "hello", "-p", "what is it")
    found = cli(*common, "--json").json
    assert [len(answer["output"]) for answer in found["answers"]] == [32, 32]
    lines = cli(*common).out.splitlines()
    assert lines[0::2] == ["> hello", "> what is it"]
    assert lines[1].startswith(f"[32] {found['answers'][0]['output'][0]:.4f} ")


def test_classifier(cli: Cli, classifier: Path) -> None:
    common = ("infer", classifier, "--seq-len", "16,32", "-p", "hello", "-p", "what is it")
    answers = cli(*common, "--json").json["answers"]
    assert [answer["prompt"] for answer in answers] == ["hello", "what is it"]
    assert [len(answer["logits"]) for answer in answers] == [3, 3]
    scores = answers[1]["scores"]
    assert scores.keys() == {"LABEL_0", "LABEL_1", "LABEL_2"}
    assert sum(scores.values()) == pytest.approx(1)
    assert answers[1]["label"] == max(scores, key=scores.__getitem__)
    lines = cli(*common).out.splitlines()
    assert lines[4:6] == ["> what is it", f"{max(scores.values()):.4f} {answers[1]['label']}"]


@pytest.mark.parametrize("args", [("--ctx-len", "32"), ("--chat",), ("--top-k", "3")])
def test_encoder_with_what_only_language_models_have(cli: Cli, encoder: Path, args: tuple[str, ...]) -> None:
    result = cli("infer", encoder, "-p", "hello", *args)
    assert (result.code, result.out) == (2, "")
    assert "encoder" in result.err


def test_language_model_with_what_only_encoders_have(cli: Cli, checkpoint: Path) -> None:
    result = cli("infer", checkpoint, "-p", "hello", "--seq-len", "16")
    assert result.code == 2
    assert result.err.startswith("error: --seq-len is not for LlamaForCausalLM")


@pytest.fixture(scope="module")
def seeing_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_text_models.make("llava", tmp_path_factory.mktemp("llava") / "llava")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for path, picture in zip(paths, images((56, 56), (56, 56)), strict=True):
        picture.save(path)
    return paths


def test_images_are_seen(cli: Cli, seeing_checkpoint: Path, pictures: list[Path]) -> None:
    command = ("infer", seeing_checkpoint, *COMPILE, "--prompt", "what is it", *SHORT, "--json")
    first, second = (cli(*command, "--image-path", path).json["answers"][0] for path in pictures)
    assert len(first["token_ids"]) == len(second["token_ids"]) == 6
    assert first["token_ids"] != second["token_ids"]


def test_images_are_for_models_that_see(cli: Cli, checkpoint: Path, pictures: list[Path]) -> None:
    result = cli("infer", checkpoint, *COMPILE, "--prompt", PROMPT, "--image-path", pictures[0])
    assert (result.code, result.out) == (2, "")
    assert "which sees no images: leave --image-path out" in result.err


@pytest.mark.parametrize(
    ("missing", "flags", "says"),
    [
        ("tokenizer.json", ("-p", "hi"), "has no tokenizer"),
        ("chat_template.jinja", ("--chat",), "has no chat template: use --prompt"),
    ],
)
def test_what_no_answer_can_do_without_is_missed_before_the_compilation(
    missing: str, flags: tuple[str, ...], says: str, cli: Cli, checkpoint: Path, own_home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(checkpoint, folder)
    for file in [folder / missing, *(folder.glob("tokenizer*") if "tokenizer" in missing else ())]:
        file.unlink(missing_ok=True)
    result = cli("infer", folder, *flags)
    assert result.code != 0
    assert f"bare {says}" in result.err
    assert [entry for entry in ArtifactStore().entries() if entry.kind == "package"] == []
