"""Classifiers of texts: the losses of a plain Trainer, labels by name, and a result that compiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from finetune.files import Write
from finetune.runs import losses

from QEfficient import QEFFAutoModelForSequenceClassification
from QEfficient.errors import CorruptCheckpoint, DatasetError
from QEfficient.finetune.base import Base
from QEfficient.finetune.classification import label_names, labelled_texts
from QEfficient.finetune.rows import Row, read_rows
from QEfficient.finetune.run import finetune
from QEfficient.finetune.settings import FinetuneOptions
from QEfficient.finetune.watching import read_metrics

for package in ("trl", "peft", "datasets"):
    pytest.importorskip(package)

WORDS = {"good": ("fine", "nice", "great"), "bad": ("poor", "awful", "sad"), "so": ("okay", "fair", "plain")}
ROWS = [
    {"text": f"It is {word} {end}", "label": label} for label, words in WORDS.items() for word in words for end in "abc"
]
SHORT = {"task_mode": "seq_classification", "device": "cpu", "seed": 7, "gradient_accumulation_steps": 1}
OPTIONS = FinetuneOptions(task_mode="seq_classification", context_length=16)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the body alone."""
    folder = tiny_models.save(tiny_models.encoder(), tmp_path_factory.mktemp("encoder") / "bert")
    tiny_models.tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def data(write: Write) -> str:
    return str(write(ROWS))


def rows(*labels: Any) -> list[Row]:
    return [Row({"text": "a", "label": label}, f"row {number}") for number, label in enumerate(labels, 1)]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "b"], ("a", "b")),
        ([10, 9, 2], ("2", "9", "10")),
        (["10", "9"], ("9", "10")),
        ([True, False], ("False", "True")),
    ],
)
def test_labels_have_an_order(labels: list[Any], names: tuple[str, ...]) -> None:
    assert label_names(rows(*labels), OPTIONS) == names


@pytest.mark.parametrize("label", [None, "", 0.5, ["a"]])
def test_what_is_no_label(label: Any) -> None:
    with pytest.raises(DatasetError, match="row 2: column 'label' must be text or a whole number"):
        label_names(rows("a", label), OPTIONS)


def test_one_label_is_nothing_to_learn() -> None:
    with pytest.raises(DatasetError, match="row 1 and all other rows have the label 'a'"):
        label_names(rows("a", "a"), OPTIONS)


def test_texts_are_cut_and_keep_what_the_tokenizer_adds(tokenizer: Any) -> None:
    (made,) = labelled_texts([Row({"text": "x" * 99, "label": "b"}, "here")], OPTIONS, tokenizer, ("a", "b"))
    assert made.labels == 1
    assert made.input_ids == tokenizer("x" * 99, truncation=True, max_length=16)["input_ids"]
    assert len(made.input_ids) == 16


def test_templates_say_what_is_the_text(tokenizer: Any) -> None:
    options = FinetuneOptions(task_mode="seq_classification", prompt_template="{q}?", completion_template="{kind}")
    row = Row({"q": "Why", "kind": 3}, "here")
    assert label_names([row, Row({"q": "", "kind": 4}, "there")], options) == ("3", "4")
    (made,) = labelled_texts([row], options, tokenizer, ("3", "4"))
    assert made.input_ids == tokenizer("Why?")["input_ids"]


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"text": "", "label": "a"}, "here: its text is empty"),
        ({"text": 3, "label": "a"}, "here: column 'text' must be text, got 3"),
        ({"text": "x", "label": "c"}, "here: its label 'c' is none of those that the model learns: a, b"),
    ],
)
def test_rows_that_are_refused(tokenizer: Any, row: dict[str, Any], match: str) -> None:
    with pytest.raises(DatasetError, match=match):
        labelled_texts([Row(row, "here")], OPTIONS, tokenizer, ("a", "b"))


def test_a_bad_row_is_named_by_its_line(encoder: Path, write: Write, tmp_path: Path) -> None:
    file = write([*ROWS, {"text": "x"}])
    with pytest.raises(DatasetError, match=rf"data\.jsonl, line {len(ROWS) + 1}: column 'label'"):
        finetune(encoder, dataset=str(file), output_dir=tmp_path / "out", **SHORT)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_losses_are_those_of_a_plain_trainer(encoder: Path, data: str, tmp_path: Path, method: str) -> None:
    """From a model that has its head already: a new one has random weights, which both would have to draw alike."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    names = sorted(WORDS)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    set_seed(1)
    AutoModelForSequenceClassification.from_pretrained(encoder, **labels).save_pretrained(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    tokenizer.save_pretrained(tmp_path / "base")

    set_seed(7)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", dtype=torch.float32)
    lora = {"lora_r": 4, "lora_alpha": 8, "target_modules": "query,value"}
    if method == "lora":
        set_seed(7)
        model = get_peft_model(model, LoraConfig(
            task_type="SEQ_CLS", r=4, lora_alpha=8, lora_dropout=0.05, target_modules=["query", "value"]
        ))  # fmt: skip
    rows = [{"labels": names.index(row["label"]), **tokenizer(row["text"])} for row in ROWS]
    plain = Trainer(
        model,
        TrainingArguments(
            str(tmp_path / "plain"), per_device_train_batch_size=4, learning_rate=1e-3, max_steps=4, seed=7,
            use_cpu=True, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
        ),
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=Dataset.from_list(rows),
    )  # fmt: skip
    plain.train()
    options = {"use_peft": True, **lora} if method == "lora" else {}
    finetune(
        tmp_path / "base", dataset=data, output_dir=tmp_path / "ours", train_batch_size=4, lr=1e-3, max_train_step=4,
        **SHORT, **options,
    )  # fmt: skip
    expected = [line["loss"] for line in plain.state.log_history if "loss" in line]
    assert len(expected) == 4
    assert [loss for _, loss in losses(tmp_path / "ours")] == pytest.approx(expected, abs=1e-6)


def test_a_classifier_learns_and_compiles(encoder: Path, data: str, tmp_path: Path) -> None:
    report = finetune(
        encoder, dataset=data, eval_dataset=data, output_dir=tmp_path / "out", train_batch_size=9, num_epochs=12,
        lr=3e-3, lr_scheduler="constant", **SHORT,
    )  # fmt: skip
    assert report.model is not None
    assert report.accuracy == 1.0
    assert report.perplexity is None
    assert "accuracy 1)" in str(report)
    lines = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert [line["eval_accuracy"] for line in lines if "eval_loss" in line][-1] == 1.0
    assert not any("perplexity" in line for line in lines)
    model = QEFFAutoModelForSequenceClassification.from_pretrained(report.model)
    model.compile(target="cpu", seq_len=16, batch_size=len(ROWS), precision="fp32")
    logits = model.generate([row["text"] for row in ROWS])["logits"]
    assert [model.config.id2label[number] for number in logits.argmax(-1)] == [row["label"] for row in ROWS]


def test_an_adapter_keeps_the_names_of_the_labels(base: Path, data: str, tmp_path: Path) -> None:
    """Also: a decoder, whose padding the new head must know."""
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoConfig

    report = finetune(
        base, dataset=data, eval_dataset=data, output_dir=tmp_path, use_peft=True, max_train_step=2, val_batch_size=9,
        train_batch_size=9, **SHORT,
    )  # fmt: skip
    assert report.model is not None
    config = AutoConfig.from_pretrained(report.model)
    assert list(config.id2label.values()) == sorted(WORDS)
    model = AutoPeftModelForSequenceClassification.from_pretrained(report.model, num_labels=3)
    model.config.pad_token_id = config.pad_token_id
    tokenizer = tiny_models.tiny_tokenizer()
    texts = tokenizer([row["text"] for row in ROWS], return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model.eval()(input_ids=texts["input_ids"], attention_mask=texts["attention_mask"]).logits
    right = [sorted(WORDS)[number] == row["label"] for number, row in zip(logits.argmax(-1), ROWS, strict=True)]
    assert sum(right) / len(right) == report.accuracy


def test_the_loss_does_not_depend_on_how_a_batch_is_cut(base: Path, data: str, tmp_path: Path) -> None:
    for batch, passes in ((6, 1), (2, 3)):
        options = {**SHORT, "train_batch_size": batch, "gradient_accumulation_steps": passes}
        finetune(base, dataset=data, output_dir=tmp_path / str(batch), lr=1e-3, max_train_step=4, **options)
    cut, whole = ([loss for _, loss in losses(tmp_path / name)] for name in ("2", "6"))
    assert cut == pytest.approx(whole, rel=1e-5)


def test_a_classifier_keeps_its_labels(encoder: Path, write: Write, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    for names in ({0: "no", 1: "yes"}, None):
        more = {} if names is None else {"id2label": names, "label2id": {name: key for key, name in names.items()}}
        model = AutoModelForSequenceClassification.from_pretrained(encoder, **more)
        folder = tiny_models.save(model, tmp_path / f"{names}")
        tiny_models.tiny_tokenizer().save_pretrained(folder)
        expected = ("0", "1") if names is None else ("no", "yes")
        assert Base.open(folder, {}, False).labels == expected
    file = write([{"text": "a", "label": "yes"}, {"text": "b", "label": "perhaps"}])
    with pytest.raises(
        DatasetError, match="line 2: its label 'perhaps' is none of those that the model learns: no, yes"
    ):
        finetune(tmp_path / str({0: "no", 1: "yes"}), dataset=str(file), output_dir=tmp_path / "out", **SHORT)


def test_only_a_head_may_be_new(encoder: Path, write: Write, tmp_path: Path) -> None:
    """A language model is not trained from random weights that nobody asked for."""
    file = write([{"text": "a"}, {"text": "b"}])
    with pytest.raises(CorruptCheckpoint, match=r"does not have the weight 'cls\.|does not have the weight 'lm_head"):
        finetune(encoder, dataset=str(file), output_dir=tmp_path / "out", device="cpu")


def test_class_labels_of_a_data_set_are_read_as_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    loaded = Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    monkeypatch.setattr("datasets.load_dataset", lambda name, split: loaded)
    assert [row.values["label"] for row in read_rows("someone/reviews")] == ["pos", "neg", None]
