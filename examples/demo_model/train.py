"""Train the demo model: a tokenizer and a Llama of five million weights, in under an hour on one CPU core.

    python examples/demo_model/train.py

The text comes from `corpus.py`, so nothing is downloaded. `checkpoint/` is replaced whole, each time that the model has
become better on documents drawn with another seed.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from corpus import Corpus, Document
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Batch = dict[str, torch.Tensor]

ENDOFTEXT, PAD, END = "<|endoftext|>", "<|pad|>", "<|end|>"
SPECIAL_TOKENS = [ENDOFTEXT, PAD, "<|system|>", "<|user|>", "<|assistant|>", END]
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('a message is from the system, the user or the assistant, not ' + message.role) }}
    {%- endif %}
    {{- '<|' + message.role + '|>' }}
    {%- if message.content is string %}
        {{- message.content | trim }}
    {%- else %}
        {%- for part in message.content %}{{- part.text | trim }}{%- endfor %}
    {%- endif %}
    {{- '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}
"""

VOCAB_SIZE = 3072  # nearly every word of the corpus is one token, and the embedding is a sixth of the weights
NUM_TOKENIZER_DOCUMENTS = 6000
ROW_LENS = {256: 0.5, 512: 0.35, 1024: 0.15}  # tokens; the long rows teach the positions that long answers need
BATCH_LEN = 1024  # tokens; with so little text, more steps teach more than larger ones
NUM_EVAL_BATCHES = 24


@dataclass(frozen=True)
class TrainOptions:
    steps: int = 4000  # about three quarters of an hour on one core
    eval_every: int = 400
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    decay_share: float = 0.5  # the last part of the steps, in which the learning rate falls to zero
    seed: int = 0
    out: Path = Path(__file__).parent / "checkpoint"

    def learning_rate_at(self, step: int) -> float:
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        decay = min(1.0, (self.steps - step) / (self.steps * self.decay_share))
        return self.learning_rate * warmup * decay


def plain_text(document: Document) -> str:
    return document if isinstance(document, str) else "\n".join(message["content"] for message in document)


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, which can spell any text. Digits stay single, so that numbers are read as they are written."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    documents = islice(Corpus(seed).documents(), NUM_TOKENIZER_DOCUMENTS)
    tokenizer.train_from_iterator(map(plain_text, documents), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=ENDOFTEXT,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Grouped heads, tied embeddings and two end tokens: small, but with what real checkpoints have."""
    ids = token_ids(tokenizer)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        **ids,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=256, **ids)
    return model


def token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | list[int]]:
    endoftext, pad, end = tokenizer.convert_tokens_to_ids([ENDOFTEXT, PAD, END])
    return {"bos_token_id": endoftext, "eos_token_id": [end, endoftext], "pad_token_id": pad}


def encode_documents(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[list[int]]:
    for document in Corpus(seed).documents():
        text = document if isinstance(document, str) else tokenizer.apply_chat_template(document, tokenize=False)
        yield tokenizer.encode(text + ENDOFTEXT)


def draw_batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Batch]:
    """Rows of one length, BATCH_LEN tokens in all. Each row begins with a document, as a prompt does."""
    documents = encode_documents(tokenizer, seed)
    endoftext = tokenizer.convert_tokens_to_ids(ENDOFTEXT)
    rng = random.Random(seed)
    while True:
        row_len = rng.choices(list(ROW_LENS), weights=list(ROW_LENS.values()))[0]
        ids = torch.tensor([fill_row(documents, row_len) for _ in range(BATCH_LEN // row_len)])
        batch = {"input_ids": ids, "labels": ids}
        if row_len < max(ROW_LENS):
            batch["attention_mask"] = separate_documents(ids, endoftext)
        yield batch


def separate_documents(ids: torch.Tensor, endoftext: int) -> torch.Tensor:
    """`[rows, 1, len, len]` bool: a token sees its own document only, so names are looked up and never guessed.

    The longest rows go without: a text that is continued past its end has to stay a text, too.
    """
    ends = ids == endoftext
    document = ends.cumsum(1) - ends.long()
    return ((document[:, :, None] == document[:, None, :]).tril())[:, None]


def fill_row(documents: Iterator[list[int]], row_len: int) -> list[int]:
    row: list[int] = []
    while len(row) < row_len:
        row += next(documents)
    return row[:row_len]


def build_optimizer(model: LlamaForCausalLM) -> torch.optim.AdamW:
    """Weight decay for the matrices, none for the norms."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    norms = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def take_step(model: LlamaForCausalLM, optimizer: torch.optim.AdamW, batch: Batch, learning_rate: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    loss = model(**batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


@torch.no_grad()
def evaluate(model: LlamaForCausalLM, batches: list[Batch]) -> float:
    """Mean loss in nats per token."""
    return sum(model(**batch).loss.item() for batch in batches) / len(batches)


def publish(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write beside `out`, then swap the folders, so that a reader never finds half a checkpoint."""
    new, old = out.with_name(out.name + ".new"), out.with_name(out.name + ".old")
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    deepcopy(model).to(torch.bfloat16).save_pretrained(new)
    tokenizer.save_pretrained(new)
    if out.exists():
        os.rename(out, old)
    os.rename(new, out)
    shutil.rmtree(old, ignore_errors=True)


def train(options: TrainOptions) -> None:
    torch.manual_seed(options.seed)
    tokenizer = train_tokenizer(options.seed)
    model = build_model(tokenizer)
    optimizer = build_optimizer(model)
    eval_batches = list(islice(draw_batches(tokenizer, options.seed + 1), NUM_EVAL_BATCHES))
    print(f"{len(tokenizer)} tokens, {model.num_parameters():,} weights", flush=True)
    best, start, losses = math.inf, time.monotonic(), []
    for step, batch in enumerate(islice(draw_batches(tokenizer, options.seed + 2), options.steps), start=1):
        losses.append(take_step(model, optimizer, batch, options.learning_rate_at(step - 1)))
        if step % options.eval_every and step != options.steps:
            continue
        loss, minutes = evaluate(model, eval_batches), (time.monotonic() - start) / 60
        print(f"step {step}: train {sum(losses) / len(losses):.3f}, eval {loss:.3f}, {minutes:.1f} min", flush=True)
        losses.clear()
        if loss < best:
            best = loss
            publish(model, tokenizer, options.out)


def main() -> None:
    defaults = TrainOptions()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--eval-every", type=int, default=defaults.eval_every)
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--out", type=Path, default=defaults.out)
    # More threads are not faster for matrices of this size, and one leaves the machine usable.
    torch.set_num_threads(1)
    train(TrainOptions(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
