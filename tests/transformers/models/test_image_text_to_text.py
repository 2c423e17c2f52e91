"""Models that see: the greedy tokens of Hugging Face, from prompts with images of any number and size."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import image_text_models
import numpy as np
import pytest
import torch
from image_text.pictures import images
from image_text.processors import load as load_processor

import QEfficient
from QEfficient import QEFFAutoModelForImageTextToText
from QEfficient.base.qpc_paths import PackagePath
from QEfficient.errors import CapacityError, LifecycleError, OptionError, UnsupportedModel

pytestmark = pytest.mark.xdist_group("image_text_to_text")  # one worker makes its models
NUM_NEW_TOKENS = 8
SMALL, WIDE, TALL = (56, 56), (112, 56), (40, 120)
PROMPTS = {
    "one image": ("hello world", (SMALL,)),
    "another size": ("what is it", (WIDE,)),
    "two images of two sizes": ("two of them", (TALL, SMALL)),
    "text": ("just text", ()),
}
TYPES = ("llava", "qwen3_vl", "gemma3", "llava_next", "mistral3")
"""A graph that is the whole encoder; coordinates, DeepStack and arguments worked out on the host; blocks of tokens that
attend to each other; tiles that the host packs; an encoder whose code depends on an image's size."""

OF_ONE_IMAGE = ("instructblip", "fuyu", "kosmos-2")
"""An encoder that reads the prompt too, before a model whose forward needs pixels; pixels under an old name; features
that only the forward computes, at places that a mask says."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("checkpoints")

    @cache
    def folder(model_type: str) -> Path:
        return image_text_models.make(model_type, root / model_type)

    return folder


def load(folder: Path) -> QEFFAutoModelForImageTextToText:
    return QEFFAutoModelForImageTextToText.from_pretrained(folder, processor=load_processor(folder))


@pytest.fixture(scope="module")
def compiled(folders: Any) -> Any:
    @cache
    def model(model_type: str) -> QEFFAutoModelForImageTextToText:
        loaded = load(folders(model_type))
        loaded.compile(target="cpu", ctx_len=min([512, *loaded.max_lens().values()]), precision="fp32")
        return loaded

    return model


def case(folder: Path, name: str) -> tuple[dict[str, Any], list[int]]:
    """The processor's output for a prompt, and Hugging Face's answer."""
    text, sizes = PROMPTS[name]
    inputs = image_text_models.inputs(folder, text, images(*sizes))
    return inputs, image_text_models.reference(folder, dict(inputs), NUM_NEW_TOKENS)


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("model_type", TYPES)
def test_answers_are_those_of_hugging_face(model_type: str, name: str, folders: Any, compiled: Any) -> None:
    inputs, expected = case(folders(model_type), name)
    answers = compiled(model_type).generate(inputs, generation_len=NUM_NEW_TOKENS)
    assert answers.generated_ids[0].tolist() == expected


@pytest.mark.parametrize("model_type", TYPES)
def test_a_batch_that_mixes_them_answers_as_each_alone(model_type: str, folders: Any, compiled: Any) -> None:
    cases = [case(folders(model_type), name) for name in PROMPTS]
    with QEfficient.from_package(compiled(model_type).qpc_path, full_batch_size=3) as package:
        prompts = [prompt for inputs, _ in cases for prompt in package.encode(inputs)]
        requests = [package._request(i, prompt, NUM_NEW_TOKENS, {}) for i, prompt in enumerate(prompts)]
        answers: list[list[int]] = [[] for _ in requests]
        for token in package.engine.run(requests):
            answers[token.index].append(token.token_id)
    assert answers == [expected for _, expected in cases]


def turns(*pictures: Any) -> list[dict[str, Any]]:
    """A chat with no image, or with the last in its second turn and the others in its first."""
    *before, last = [{"type": "image", "image": picture} for picture in pictures] or [{"type": "text", "text": "more"}]
    return [
        {"role": "user", "content": [*before, {"type": "text", "text": "hello"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "world"}]},
        {"role": "user", "content": [last, {"type": "text", "text": "what is it"}]},
    ]


@pytest.mark.parametrize("model_type", TYPES)
def test_chats_answer_as_hugging_face_together_and_alone(model_type: str, folders: Any, compiled: Any) -> None:
    """Text alone, an image in the second turn, and three of three sizes, two of them in the first turn."""
    chats = [turns(), turns(images(WIDE)[0]), turns(*images(TALL, SMALL, WIDE))]
    processor, expected = load_processor(folders(model_type)), []
    for each, pictures in zip(chats, ([], images(WIDE), images(TALL, SMALL, WIDE)), strict=True):
        template, tokenizer = processor.chat_template, processor.tokenizer
        text = tokenizer.apply_chat_template(each, chat_template=template, add_generation_prompt=True, tokenize=False)
        asked = {"text": [text], "images": pictures or None, "return_tensors": "pt", "add_special_tokens": False}
        expected.append(image_text_models.reference(folders(model_type), dict(processor(**asked)), 4))
    model = compiled(model_type)
    together = [ids.tolist() for ids in model.generate(chats, generation_len=4, eos_token_id=-1).generated_ids]
    alone = [model.generate(each, generation_len=4, eos_token_id=-1).generated_ids[0].tolist() for each in chats]
    assert together == alone == expected


@pytest.mark.parametrize("model_type", OF_ONE_IMAGE)
def test_models_of_one_image_answer_as_hugging_face(model_type: str, folders: Any, compiled: Any) -> None:
    inputs, expected = case(folders(model_type), "another size")
    answers = compiled(model_type).generate(inputs, generation_len=NUM_NEW_TOKENS)
    assert answers.generated_ids[0].tolist() == expected


@pytest.mark.sweep
@pytest.mark.parametrize("model_type", sorted(set(image_text_models.RECIPES) - {*TYPES, *OF_ONE_IMAGE}))
def test_every_type_answers_as_hugging_face(model_type: str, folders: Any) -> None:
    try:
        model = load(folders(model_type))
        model.compile(target="cpu", ctx_len=512, precision="fp32")
    except UnsupportedModel as error:
        pytest.skip(str(error))
    inputs, expected = case(folders(model_type), "another size")
    assert model.generate(inputs, generation_len=NUM_NEW_TOKENS).generated_ids[0].tolist() == expected


@pytest.mark.parametrize("model_type", ["llava", "granite_docling"])
def test_the_simulated_card_sees(model_type: str, folders: Any) -> None:
    """Two images where the encoder was compiled for one: of the second type both are rows of one call."""
    inputs, expected = case(folders(model_type), "two images of two sizes")
    model = load(folders(model_type))
    path = model.compile(target="cloud-ai-100-sim", ctx_len=160, prefill_seq_len=8, num_cores=8, img_size=56)
    assert model.generate(inputs, generation_len=NUM_NEW_TOKENS).generated_ids[0].tolist() == expected
    assert {"language", "vision"} <= {entry.name for entry in path.iterdir()}
    assert (path["vision_qpc_path"] / "programqpc.bin").is_file()


def test_a_package_needs_neither_checkpoint_nor_processor(compiled: Any, folders: Any) -> None:
    """The package's processor reads a text and its images."""
    _, expected = case(folders("llava"), "one image")
    with QEfficient.from_package(compiled("llava").qpc_path) as package:
        answers = package.generate("hello world", images=images(SMALL), generation_len=NUM_NEW_TOKENS)
    assert answers.generated_ids[0].tolist() == expected


def test_images_are_taken_with_their_prompts(compiled: Any) -> None:
    pictures = images(SMALL, WIDE)
    together = compiled("llava").generate(prompts=["one", "two"], images=[[pictures[0]], pictures], generation_len=4)
    alone = [
        compiled("llava").generate(prompts="one", images=[pictures[0]], generation_len=4),
        compiled("llava").generate(prompts="two", images=pictures, generation_len=4),
    ]
    assert [ids.tolist() for ids in together.generated_ids] == [each.generated_ids[0].tolist() for each in alone]


def test_a_single_image_needs_no_list(compiled: Any) -> None:
    (picture,) = images(SMALL)
    one, listed = (
        compiled("llava").generate(prompts="one", images=each, generation_len=4) for each in (picture, [picture])
    )
    assert one.generated_ids[0].tolist() == listed.generated_ids[0].tolist()


def test_a_padded_batch_is_read_row_by_row(compiled: Any, folders: Any) -> None:
    """As a processor makes it for several prompts; Hugging Face pads on the left."""
    rows = [case(folders("llava"), name)[0] for name in ("one image", "two images of two sizes", "text")]
    expected = [compiled("llava").generate(row, generation_len=4).generated_ids[0].tolist() for row in rows]
    longest = max(row["input_ids"].shape[1] for row in rows)
    padded = {
        name: torch.cat([torch.nn.functional.pad(row[name], (longest - row[name].shape[1], 0)) for row in rows])
        for name in ("input_ids", "attention_mask")
    }
    padded["pixel_values"] = torch.cat([row["pixel_values"] for row in rows if "pixel_values" in row])
    answers = compiled("llava").generate(padded, generation_len=4)
    assert [ids.tolist() for ids in answers.generated_ids] == expected


class Counted:
    """A program that counts its runs."""

    def __init__(self, program: Any):
        self.program, self.num_runs = program, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.program, name)

    def run(self, *args: Any) -> Any:
        self.num_runs += 1
        return self.program.run(*args)


@pytest.fixture
def counted(compiled: Any) -> Iterator[tuple[Any, Counted]]:
    with QEfficient.from_package(compiled("llava").qpc_path) as package:
        program = Counted(package._programs["vision"])
        for encoder in package.encoders:
            encoder._programs = {"vision": program}
        yield package, program


def test_an_image_is_encoded_once(counted: tuple[Any, Counted]) -> None:
    """Whatever the prompt is that it comes with."""
    package, program = counted
    first, second = images(SMALL, WIDE)
    package.generate("one", images=[first], generation_len=1)
    package.generate("another prompt", images=[second, first], generation_len=1)
    package.generate("one", images=[first], generation_len=1)
    assert program.num_runs == 2


def test_a_generated_placeholder_is_text(compiled: Any, folders: Any) -> None:
    """As in Hugging Face, whatever the images of the prompts beside it are."""
    inputs, _ = case(folders("llava"), "one image")
    token = compiled("llava").config.image_token_id
    reference = image_text_models.model(folders("llava"))
    ids = inputs["input_ids"]
    with torch.no_grad():
        whole = reference(**inputs, use_cache=True)
        step = reference(
            input_ids=torch.tensor([[token]]),
            past_key_values=whole.past_key_values,
            attention_mask=torch.ones(1, ids.shape[1] + 1, dtype=torch.int64),
        )
    with QEfficient.from_package(compiled("llava").qpc_path) as package:
        (prompt,) = package.encode(inputs)
        session = package.engine.session
        from QEfficient.generation.sessions.session import Chunk

        blocks = range(session.info.num_blocks or 0)
        session.step([Chunk(0, prompt.ids, 0, block_ids=blocks, media=prompt.media)])
        logits = session.step([Chunk(0, [token], len(prompt.ids), block_ids=blocks, media=prompt.media)])
    assert np.abs(logits[0] - step.logits[0, -1].numpy()).max() < 1e-3


def test_images_and_placeholders_are_counted(compiled: Any, folders: Any) -> None:
    inputs, _ = case(folders("llava"), "one image")
    with pytest.raises(OptionError, match=r"4 placeholder\(s\) for images .* make 8 row\(s\)"):
        compiled("llava").generate({**inputs, "pixel_values": inputs["pixel_values"].repeat(2, 1, 1, 1)})
    with pytest.raises(OptionError, match=r"4 placeholder\(s\) for images .* make 0 row\(s\)"):
        compiled("llava").generate(inputs["input_ids"], generation_len=2)
    placeholder = compiled("llava").processor.image_token
    with pytest.raises(OptionError, match=r"1 placeholder\(s\) for images .* 2 image\(s\) were passed"):
        compiled("llava").generate(prompts=f"{placeholder} what", images=images(SMALL, WIDE))
    with pytest.raises(OptionError, match="'pixel_values' must be an array with a row for each image"):
        compiled("llava").generate({**inputs, "pixel_values": "none"})
    with pytest.raises(OptionError, match="There are 1 images for 2 prompts"):
        compiled("llava").generate(prompts=["a", "b"], images=[images(SMALL)])


def test_without_a_processor_only_text_is_known(folders: Any) -> None:
    wrapped = QEfficient.transform(image_text_models.model(folders("llava")))
    assert isinstance(wrapped, QEFFAutoModelForImageTextToText)
    with pytest.raises(LifecycleError, match="has no processor"):
        wrapped.compile(target="cpu")


def test_a_prompt_with_its_image_must_fit(compiled: Any) -> None:
    with pytest.raises(CapacityError, match="ctx_len=512"):
        compiled("llava").generate(prompts="word " * 600, images=images(SMALL))


def test_verify_compares_features_and_tokens(compiled: Any, folders: Any) -> None:
    inputs, _ = case(folders("qwen3_vl"), "another size")
    report = compiled("qwen3_vl").verify(inputs, generation_len=4)
    assert report.agrees
    assert 0 <= report.prompts[0].feature_errors["image"] < 1e-4


def test_verify_names_the_encoder_that_differs(folders: Any, compiled: Any) -> None:
    """A package of other weights of the encoder than those that it is compared with."""
    inputs, _ = case(folders("llava"), "one image")
    package = compiled("llava").qpc_path
    changed = load(folders("llava"))
    with torch.no_grad():
        changed.model.base_model.multi_modal_projector.linear_2.weight.mul_(-3)
    changed.qpc_path = package
    report = changed.verify(inputs, generation_len=8)
    assert report.prompts[0].first_encoder == "image"
    assert "the image encoder differs" in str(report)


def test_perplexity_of_text_is_that_of_hugging_face(compiled: Any) -> None:
    model, ids = compiled("llava"), list(range(10, 60))
    ours, theirs = model.evaluate(ids, ctx_len=32), model.evaluate(ids, ctx_len=32, reference=True)
    assert abs(ours.perplexity / theirs.perplexity - 1) < 1e-4


def test_the_paths_of_a_card_answer_to_upstreams_keys(tmp_path: Path) -> None:
    for graph in ("vision", "language"):
        (tmp_path / graph / "qpc").mkdir(parents=True)
    path = PackagePath(tmp_path)
    assert dict(path) == {
        "lang_qpc_path": tmp_path / "language" / "qpc",
        "vision_qpc_path": tmp_path / "vision" / "qpc",
    }
    assert path.get("lang_prefill_qpc_path") is None
    with pytest.raises(KeyError, match="lang_qpc_path, vision_qpc_path"):
        path["audio_qpc_path"]


@pytest.mark.parametrize("model_type", ["llava", "qwen3_vl"])
def test_a_processors_output_may_be_of_numpy(model_type: str, folders: Any, compiled: Any) -> None:
    inputs, expected = case(folders(model_type), "another size")
    arrays = {name: value.numpy() for name, value in inputs.items()}
    assert compiled(model_type).generate(arrays, generation_len=NUM_NEW_TOKENS).generated_ids[0].tolist() == expected


def chat(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "what is it"}]}]


def test_a_chat_may_have_the_image_of_another_api(compiled: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "a.png")
    images(WIDE)[0].save(path)
    usual, other = (
        compiled("llava").generate(chat(part), generation_len=4).generated_ids[0].tolist()
        for part in ({"type": "image", "path": path}, {"type": "image_url", "image_url": {"url": path}})
    )
    assert usual == other


@pytest.mark.parametrize(
    ("part", "images_too", "says"),
    [
        ({"type": "imgae", "path": "a.png"}, False, "'imgae'.*image"),
        ({"type": "video", "path": "a.mp4"}, False, "'video'"),
        ({"type": "image", "path": "a.png"}, True, "choose one"),
    ],
)
def test_a_part_that_would_not_be_seen_is_refused(
    part: dict[str, Any], images_too: bool, says: str, compiled: Any
) -> None:
    with pytest.raises(OptionError, match=says):
        compiled("llava").generate(chat(part), images=images(SMALL) if images_too else None)


@pytest.mark.parametrize(
    ("sizes", "numbers"), [(None, "1 part.* 0 images"), ((), "1 part.* 0 images"), ((SMALL, WIDE), "1 part.* 2 images")]
)
def test_a_chat_has_as_many_images_as_places(sizes: Any, numbers: str, compiled: Any) -> None:
    """A placeholder that nothing takes the place of may be a word like others to the model."""
    with pytest.raises(OptionError, match=f"Prompt 0 has {numbers}"):
        compiled("llava").generate(chat({"type": "image"}), images=None if sizes is None else images(*sizes))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"input_ids": None}, "no input_ids"),
        ({"attention_mask": np.ones((1, 3), np.int64)}, r"attention_mask has the shape \[1, 3\]"),
        ({"image_grid_thw": None}, "Qwen3VL|grid_thw"),
        ({"image_grid_thw": torch.tensor([[1, -4, 4]])}, "Qwen3VL"),
    ],
)
def test_a_processors_output_that_does_not_fit_is_an_option_error(
    change: dict[str, Any], says: str, folders: Any, compiled: Any
) -> None:
    inputs, _ = case(folders("qwen3_vl"), "one image")
    with pytest.raises(OptionError, match=says):
        compiled("qwen3_vl").generate({**inputs, **change})
