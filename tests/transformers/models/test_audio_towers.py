"""Models that put an audio tower before a language model, against Hugging Face."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import audio_text_models as kit
import image_text_models
import numpy as np
import pytest
from architectures.sounds import tone, write_wave
from image_text.pictures import images

from QEfficient import QEFFAutoModelForImageTextToText, QEFFAutoModelForSpeechSeq2Seq, from_package
from QEfficient.errors import CapacityError, LifecycleError, OptionError, UnsupportedModel

pytestmark = pytest.mark.xdist_group("audio_towers")  # one worker makes its models
CPU = {"target": "cpu", "precision": "fp32", "num_threads": 1, "ctx_len": 256}
NUM_TOKENS = 8


class Case:
    """A checkpoint with its processor, Hugging Face's model and ours, compiled."""

    def __init__(self, model_type: str, folder: Path):
        self.model_type, self.recipe = model_type, kit.RECIPES[model_type]
        self.folder = kit.make(model_type, folder)
        self.processor, self.theirs = kit.processor(model_type), kit.model(self.folder)
        self.ours = QEFFAutoModelForSpeechSeq2Seq.from_pretrained(self.folder, processor=self.processor)
        self.package = self.ours.compile(**CPU)

    def asked(self, *seconds: float) -> dict[str, Any]:
        return kit.inputs(self.processor, self.recipe, kit.TEXT, kit.clips(self.model_type, *seconds))

    def expected(self, inputs: dict[str, Any]) -> list[int]:
        return kit.reference(self.theirs, inputs, NUM_TOKENS)[0]


@pytest.fixture(scope="module")
def granite(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case("granite_speech", tmp_path_factory.mktemp("granite"))


@pytest.fixture(scope="module")
def funasr(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case("fun_asr_nano", tmp_path_factory.mktemp("funasr"))


@pytest.mark.parametrize("seconds", [(0.6,), (1.3,), (0.7, 1.9), ()], ids=str)
def test_answers_are_those_of_hugging_face(granite: Case, seconds: tuple[float, ...]) -> None:
    inputs = granite.asked(*seconds)
    assert granite.ours.generate(dict(inputs), generation_len=NUM_TOKENS).generated_ids[0].tolist() == (
        granite.expected(inputs)
    )


def test_clips_go_with_texts_in_a_batch_and_alone(granite: Case) -> None:
    clips = kit.clips("granite_speech", 0.6, 1.3)
    prompts, audio = ["what is it", "say it", "hello"], [[clips[0]], clips, []]
    together = granite.ours.generate(prompts=prompts, audio=audio, generation_len=NUM_TOKENS).generated_ids
    for ids, prompt, each in zip(together, prompts, audio, strict=True):
        alone = granite.ours.generate(prompts=prompt, audio=each, generation_len=NUM_TOKENS).generated_ids[0]
        assert ids.tolist() == alone.tolist()


def test_a_clip_in_the_second_turn(granite: Case) -> None:
    (clip,) = kit.clips("granite_speech", 0.8)
    chat = [
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
        {"role": "user", "content": [{"type": "audio", "audio": clip}, {"type": "text", "text": "what is it"}]},
    ]
    ours = granite.ours.generate(prompts=[chat], generation_len=NUM_TOKENS).generated_ids[0]
    text = granite.processor.tokenizer.apply_chat_template(
        chat, chat_template=granite.processor.chat_template, add_generation_prompt=True, tokenize=False
    )
    theirs = granite.processor(text=[text], audio=[clip], return_tensors="pt", add_special_tokens=False)
    assert ours.tolist() == granite.expected(dict(theirs))


def test_a_file_is_transcribed_by_the_request_of_the_processor(funasr: Case, tmp_path: Path) -> None:
    (clip,) = kit.clips("fun_asr_nano", 1.1)
    file = write_wave(tmp_path / "talk.wav", clip)
    (transcript,) = funasr.ours.transcribe(file, generation_len=NUM_TOKENS)
    samples = np.round(clip.astype(np.float64) * (2**15 - 1)).astype(np.float32) / 2**15
    inputs = dict(funasr.processor.apply_transcription_request([samples]))
    expected = funasr.expected(inputs)
    assert transcript.segments[0].token_ids == expected
    assert transcript.text == funasr.processor.tokenizer.decode(expected, skip_special_tokens=True)
    assert transcript.segments[0].end == pytest.approx(len(clip) / 16000)


def test_a_package_transcribes(funasr: Case) -> None:
    (clip,) = kit.clips("fun_asr_nano", 1.1)
    (expected,) = funasr.ours.transcribe(clip, generation_len=NUM_TOKENS)
    with from_package(funasr.package) as package:
        (transcript,) = package.transcribe(clip, processor=funasr.processor, generation_len=NUM_TOKENS)
    assert transcript == expected


def test_a_prompt_says_what_to_do_where_the_processor_does_not(granite: Case) -> None:
    (clip,) = kit.clips("granite_speech", 0.9)
    with pytest.raises(OptionError, match="no prompt that asks for a transcription"):
        granite.ours.transcribe(clip)
    (transcript,) = granite.ours.transcribe(clip, prompt="write it down", generation_len=NUM_TOKENS)
    answer = granite.ours.generate(prompts="write it down", audio=clip, generation_len=NUM_TOKENS)
    assert transcript.segments[0].token_ids == answer.generated_ids[0].tolist()
    with pytest.raises(OptionError, match="say it in the prompt"):
        granite.ours.transcribe(clip, prompt="write it down", language="en")


def test_what_cannot_be_heard_is_an_error(granite: Case, tmp_path: Path) -> None:
    (clip,) = kit.clips("granite_speech", 0.9)
    with pytest.raises(CapacityError, match="is empty"):
        granite.ours.generate(prompts="what", audio=np.zeros(0, np.float32))
    with pytest.raises(CapacityError, match=r"1 sample.*too short to hear anything: expected at least 160"):
        granite.ours.generate(prompts="what", audio=np.zeros(1, np.float32))
    with pytest.raises(OptionError, match="2 placeholder"):
        granite.ours.generate(prompts="<|audio|><|audio|>what", audio=[clip])
    with pytest.raises(OptionError, match="cannot be read"):
        granite.ours.generate(prompts="what", audio=tmp_path / "none.wav")
    inputs = granite.asked(0.9)
    del inputs["input_features"]
    with pytest.raises(OptionError, match="placeholder"):
        granite.ours.generate(inputs)


def test_misspelt_options_and_unknown_inputs_get_the_nearest_name(granite: Case) -> None:
    inputs = granite.asked(0.6)
    with pytest.raises(OptionError, match=r"Unknown option 'image'. Did you mean 'images'"):
        granite.ours.generate(dict(inputs), image=[1])
    with pytest.raises(OptionError, match=r"'input_featurs', which the model does not take. Did you mean"):
        granite.ours.generate({**inputs, "input_featurs": inputs["input_features"]})
    with pytest.raises(OptionError, match="'pixel_values_videos', which the model does not take"):
        granite.ours.generate({**inputs, "pixel_values_videos": inputs["input_features"]})


def test_media_and_prompts_that_do_not_fit_together_say_what_is_expected(granite: Case) -> None:
    (clip,) = kit.clips("granite_speech", 0.6)
    with pytest.raises(OptionError, match="audio has 2 lists for one prompt: pass one list, or a prompt for each"):
        granite.ours.generate(prompts="what", audio=[[clip], [clip]])
    with pytest.raises(OptionError, match="3 audio for 2 prompts, expected an entry for each prompt"):
        granite.ours.generate(prompts=["what", "why"], audio=[[clip], [clip], []])
    with pytest.raises(OptionError, match=r'no place for 1 clip.*"type": "audio"'):
        granite.ours.generate([{"role": "user", "content": [{"type": "text", "text": "what"}]}], audio=[clip])


def test_a_processor_of_another_model_is_blamed(granite: Case) -> None:
    other = kit.processor("qwen3_asr")
    ours = QEFFAutoModelForSpeechSeq2Seq.from_pretrained(granite.folder, processor=other)
    with pytest.raises(OptionError, match=r"Qwen3ASRProcessor is the processor of another model: .* GraniteSpeechProc"):
        ours.compile(**CPU)


def test_features_are_compared_by_verify(granite: Case) -> None:
    report = granite.ours.verify(granite.asked(0.6), generation_len=4)
    assert report.agrees
    assert report.prompts[0].feature_errors["audio"] < 1e-4


@pytest.fixture(scope="module")
def realtime(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case("voxtral_realtime", tmp_path_factory.mktemp("realtime"))


def test_audio_that_is_added_to_every_token_says_how_long_the_answer_is(realtime: Case) -> None:
    inputs = realtime.asked(0.6)
    expected = realtime.theirs.generate(**inputs, do_sample=False)[0, inputs["input_ids"].shape[1] :].tolist()
    for generation_len in (None, 200):
        ids = realtime.ours.generate(dict(inputs), generation_len=generation_len).generated_ids[0].tolist()
        assert ids == expected
    (transcript,) = realtime.ours.transcribe(kit.clips("voxtral_realtime", 0.6)[0])
    assert transcript.segments[0].token_ids == expected


def test_clips_that_are_added_run_together(realtime: Case) -> None:
    clips = kit.clips("voxtral_realtime", 0.6, 1.3)
    together = realtime.ours.generate(prompts=["", ""], audio=[[each] for each in clips], generation_len=NUM_TOKENS)
    for ids, clip in zip(together.generated_ids, clips, strict=True):
        inputs = kit.inputs(realtime.processor, realtime.recipe, "", [clip])
        assert ids.tolist() == realtime.expected(inputs)


def test_audio_that_is_added_stands_alone(realtime: Case) -> None:
    (clip,) = kit.clips("voxtral_realtime", 0.6)
    with pytest.raises(OptionError, match="one clip without a text"):
        realtime.ours.generate(prompts="what is it", audio=clip)
    assert realtime.ours.verify(prompts="", audio=clip, generation_len=4).agrees
    with pytest.raises(OptionError, match="answers no text alone"):
        realtime.ours.generate(prompts="what is it")
    with pytest.raises(OptionError, match="leave language out"):
        realtime.ours.transcribe(clip, language="en")
    with pytest.raises(OptionError, match=r"num_delay_tokens=4, and the package was compiled .* 3"):
        realtime.ours.generate({**realtime.asked(0.6), "num_delay_tokens": 4})
    inputs = realtime.asked(0.6)
    with pytest.raises(CapacityError, match="too short for an answer"):
        realtime.ours.generate({**inputs, "input_features": inputs["input_features"][..., :48]})
    with pytest.raises(CapacityError, match=r"ctx_len=.* or more"):
        realtime.ours.transcribe(kit.clips("voxtral_realtime", 25.0)[0])


@pytest.mark.sweep
def test_codes_that_are_added_to_every_token(tmp_path: Path) -> None:
    kyutai = Case("kyutai_speech_to_text", tmp_path)
    for seconds in (0.6, 1.31):
        inputs = kyutai.asked(seconds)
        expected = kyutai.theirs.generate(**inputs, do_sample=False)[0, 1:].tolist()
        assert kyutai.ours.generate(dict(inputs)).generated_ids[0].tolist() == expected
        (transcript,) = kyutai.ours.transcribe(kit.clips("kyutai_speech_to_text", seconds)[0])
        assert transcript.segments[0].token_ids == expected
        assert kyutai.ours.verify(inputs, generation_len=4).agrees


def test_an_adapter_beside_the_weights_is_not_left_out(granite: Case, tmp_path: Path) -> None:
    folder = shutil.copytree(granite.folder, tmp_path / "adapted")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    with pytest.raises(UnsupportedModel, match=r"has a LoRA adapter \(.*adapter_config.json\).* Merge it"):
        QEFFAutoModelForSpeechSeq2Seq.from_pretrained(folder, processor=granite.processor)


def test_audio_that_transformers_encodes_in_chunks_is_encoded_whole(tmp_path: Path) -> None:
    vibevoice = Case("vibevoice_asr", tmp_path)
    inputs = vibevoice.asked(1.3)
    assert vibevoice.theirs.config.acoustic_tokenizer_chunk_size < inputs["input_values"].shape[-1]
    ids = vibevoice.ours.generate(dict(inputs), generation_len=NUM_TOKENS).generated_ids[0]
    assert ids.tolist() == vibevoice.expected({**inputs, **vibevoice.recipe.call})


def test_audio_needs_a_processor(granite: Case) -> None:
    assert isinstance(granite.ours, QEFFAutoModelForImageTextToText)
    with pytest.raises(LifecycleError, match="has no processor"):
        QEFFAutoModelForImageTextToText(granite.theirs).compile(**CPU)


@pytest.mark.parametrize(
    "model_type", ["qwen3_omni_moe_thinker", pytest.param("qwen2_5_omni_thinker", marks=pytest.mark.sweep)]
)
def test_a_prompt_may_have_images_and_audio(model_type: str, tmp_path: Path) -> None:
    from transformers import WhisperFeatureExtractor

    folder = image_text_models.make(model_type, tmp_path)
    processor = image_text_models.load_processor(folder)
    processor.feature_extractor = WhisperFeatureExtractor(feature_size=16)
    ours = QEFFAutoModelForImageTextToText.from_pretrained(folder, processor=processor)
    ours.compile(**CPU)
    image = image_text_models.RECIPES[model_type].image
    media = {"audio": [tone(20000)], "return_tensors": "pt"}
    asked = [
        processor(text=[f"{processor.audio_token}what is it"], **media),
        processor(text=[f"{processor.audio_token}{image}what is it"], images=images((56, 56)), **media),
    ]
    for inputs in asked:
        answer = ours.generate(dict(inputs), generation_len=4).generated_ids[0]
        assert answer.tolist() == image_text_models.reference(folder, inputs, 4)
