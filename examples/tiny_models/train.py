"""Train the three tiny models of the examples: a translator, a classifier and a reranker. Minutes on one CPU core.

    python examples/tiny_models/train.py [translator] [classifier] [reranker]

The texts are made here, so nothing is downloaded. Each model is trained on a part of them; what is printed is its
accuracy on the rest.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from texts import DOCUMENTS, PLACES, QUESTIONS, english, german, review
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

HERE = Path(__file__).parent
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def fit(model: PreTrainedModel, batches: Iterable[dict[str, Any]], steps: int, lr: float = 2e-3) -> None:
    """AdamW with a learning rate that rises for a tenth of the steps and then falls to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    model.train()
    for step, batch in zip(range(steps), batches, strict=False):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 200 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    model.eval()


def save(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, accuracy: float) -> None:
    """Write a checkpoint in bfloat16."""
    model.to(torch.bfloat16).save_pretrained(HERE / name)
    tokenizer.save_pretrained(HERE / name)
    print(f"{name}: {accuracy:.1%} of the texts that it was not trained on are right.", flush=True)


# Numbers from English into German


def subword_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """BPE over both languages; a text ends with </s>, as T5's do."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=160, special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


def translator() -> None:
    numbers = list(range(1000))
    random.Random(0).shuffle(numbers)
    tested, taught = numbers[:100], numbers[100:]
    tokenizer = subword_tokenizer([text for number in numbers for text in (english(number), german(number))])
    config = T5Config(
        vocab_size=len(tokenizer), d_model=96, d_kv=24, d_ff=192, num_layers=2, num_heads=4, dropout_rate=0.05,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)

    def batches() -> Iterable[dict[str, Any]]:
        while True:
            some = random.sample(taught, 64)
            labels = tokenizer([german(number) for number in some], padding=True, return_tensors="pt").input_ids
            labels[labels == 0] = -100
            yield {
                **tokenizer([english(number) for number in some], padding=True, return_tensors="pt"),
                "labels": labels,
            }

    fit(model, ({k: v for k, v in batch.items() if k != "token_type_ids"} for batch in batches()), steps=2500)
    model.generation_config.max_new_tokens = 32
    inputs = tokenizer([english(number) for number in tested], padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    texts = tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    save(
        "translator", model, tokenizer, mean(text == german(number) for text, number in zip(texts, tested, strict=True))
    )


# Classifiers of texts and of pairs


def word_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A token for each word, and one for all unknown ones."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=[*SPECIAL.values()], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **SPECIAL)


def classifier_of(tokenizer: PreTrainedTokenizerFast, labels: Sequence[str]) -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=64, id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
        hidden_dropout_prob=0.05, attention_probs_dropout_prob=0.0, initializer_range=0.1,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def classifier() -> None:
    draw = random.Random(0)
    drawn = dict(review(draw) for _ in range(20000))
    texts = sorted(drawn)
    tested = texts[::20]
    taught = sorted({*texts} - {*tested})
    tokenizer = word_tokenizer(texts)
    model = classifier_of(tokenizer, ["negative", "positive"])

    def batches() -> Iterable[dict[str, Any]]:
        while True:
            some = draw.sample(taught, 64)
            yield {
                **tokenizer(some, padding=True, return_tensors="pt"),
                "labels": torch.tensor([drawn[text] for text in some]),
            }

    fit(model, batches(), steps=600)
    chosen = model(**tokenizer(tested, padding=True, return_tensors="pt")).logits.argmax(-1).tolist()
    save("classifier", model, tokenizer, mean(a == drawn[b] for a, b in zip(chosen, tested, strict=True)))


def reranker() -> None:
    draw = random.Random(0)
    pairs = [(place, topic) for place in PLACES for topic in QUESTIONS]
    draw.shuffle(pairs)
    tested, taught = pairs[:20], pairs[20:]
    texts = [
        form.format(place)
        for forms in (QUESTIONS, DOCUMENTS)
        for each in forms.values()
        for form in each
        for place in PLACES
    ]
    tokenizer = word_tokenizer(texts)
    model = classifier_of(tokenizer, ["relevant"])
    model.config.problem_type = "multi_label_classification"  # one label, read as a probability

    def asked(place: str, topic: str) -> str:
        return draw.choice(QUESTIONS[topic]).format(place)

    def told(place: str, topic: str) -> str:
        return draw.choice(DOCUMENTS[topic]).format(place)

    def row() -> tuple[str, str, float]:
        place, topic = draw.choice(taught)
        if draw.random() < 0.4:
            return asked(place, topic), told(place, topic), 1.0
        other = (draw.choice(PLACES), topic) if draw.random() < 0.5 else (place, draw.choice([*QUESTIONS]))
        return asked(place, topic), told(*other), float(other == (place, topic))

    def batches() -> Iterable[dict[str, Any]]:
        while True:
            questions, documents, labels = zip(*(row() for _ in range(64)), strict=True)
            encoded = tokenizer([*questions], [*documents], padding=True, return_tensors="pt")
            yield {**encoded, "labels": torch.tensor(labels)[:, None]}

    def is_first(place: str, topic: str) -> bool:
        others = [told(each, topic) for each in PLACES if each != place]
        others += [told(place, each) for each in QUESTIONS if each != topic]
        documents = [told(place, topic), *others]
        encoded = tokenizer([asked(place, topic)] * len(documents), documents, padding=True, return_tensors="pt")
        return int(model(**encoded).logits[:, 0].argmax()) == 0

    fit(model, batches(), steps=3000)
    save("reranker", model, tokenizer, mean(is_first(*pair) for pair in tested))


def mean(values: Iterable[bool]) -> float:
    listed = [*values]
    return sum(listed) / len(listed)


MODELS: dict[str, Callable[[], None]] = {"translator": translator, "classifier": classifier, "reranker": reranker}

if __name__ == "__main__":
    for name in sys.argv[1:] or MODELS:
        torch.manual_seed(0)
        random.seed(0)
        MODELS[name]()
