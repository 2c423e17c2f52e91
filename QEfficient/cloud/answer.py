"""Opens a package and answers prompts with it. Neither torch nor transformers is imported here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.cloud.chat import Chat
from QEfficient.cloud.generate_args import Question
from QEfficient.cloud.terminal import Output, remark, tell_speed
from QEfficient.cloud.text_files import TextItem, write_results
from QEfficient.progress import stage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from QEfficient.generation.compiled_model import CompiledModel
    from QEfficient.generation.results import CloudAI100ExecInfo
    from QEfficient.generation.tasks.causal_lm import CompiledDecoder


def answer(out: Output, package: Path, question: Question, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Open a package and answer.

    Args:
        out: where the answers go.
        package: the package's folder.
        question: the prompts, and how to answer them.
        tokenizer: for a package that has none.
    """
    from QEfficient.generation.package import from_package
    from QEfficient.generation.tasks.causal_lm import CompiledDecoder

    with stage("Opening", package.name[:12]):
        compiled = from_package(package)
    question.check_task(compiled.task)
    with compiled:
        if not isinstance(compiled, CompiledDecoder):
            if question.batch.output is not None:
                _write(out, compiled, question, question.batch.output, tokenizer)
            else:
                _describe(out, compiled, question, tokenizer)
        elif question.chat:
            Chat(out, compiled, question, tokenizer).run()
        else:
            _complete(out, compiled, question, tokenizer)


def _describe(
    out: Output, compiled: CompiledModel[Any], question: Question, tokenizer: PreTrainedTokenizerBase | None
) -> None:
    from QEfficient.generation.tasks.encoder import CompiledEncoder

    if question.images and isinstance(compiled, CompiledEncoder):
        rows, text = compiled.describe(question.prompts, tokenizer, question.images)
    else:
        texts = [*question.prompts, *(item.text for item in question.batch.items)]
        rows, text = compiled.describe(texts, tokenizer)
    if question.as_json:
        return out.json({"package": str(compiled.path), "answers": rows})
    return out.write(text)


def _write(
    out: Output,
    compiled: CompiledModel[Any],
    question: Question,
    path: Path,
    tokenizer: PreTrainedTokenizerBase | None,
) -> None:
    items = [*(TextItem(prompt, {"text": prompt}) for prompt in question.prompts), *question.batch.items]
    array, rows = compiled.tabulate([item.text for item in items], tokenizer)
    write_results(path, items, array, rows)
    if question.as_json:
        return out.json({"package": str(compiled.path), "output": str(path), "shape": list(array.shape)})
    return remark(f"{path}: {len(items)} texts, {list(array.shape)}")


def _complete(
    out: Output, compiled: CompiledDecoder[Any], question: Question, tokenizer: PreTrainedTokenizerBase | None
) -> None:
    prompts = [*question.prompts, *(str(item.text) for item in question.batch.items)]
    num_each = question.sampling.get("num_return_sequences", 1)
    is_written = question.as_json or question.batch.output is not None
    if question.stream and not is_written and len(prompts) * num_each == 1:
        info = compiled.generate(question.asked, tokenizer=tokenizer, stream=out.write_piece, **question.options)
        out.write()
        return tell_speed(info.speed)
    with stage("Answering", f"{len(prompts)} prompt{'s' if len(prompts) > 1 else ''}"):
        info = compiled.generate(question.asked, tokenizer=tokenizer, **question.options)
    prompts = [prompt for prompt in prompts for _ in range(num_each)]
    if question.batch.output is not None:
        items = [*(TextItem(prompt, {"prompt": prompt}) for prompt in question.prompts), *question.batch.items]
        _write_answers(question.batch.output, [item for item in items for _ in range(num_each)], info)
    if question.as_json:
        return out.json(_described(compiled, prompts, info))
    if not is_written:
        out.write(_texts(prompts, info))
    return tell_speed(info.speed)


def _write_answers(path: Path, items: list[TextItem], info: CloudAI100ExecInfo) -> None:
    rows = zip(info.generated_texts, info.finish_reasons, strict=True)
    write_results(path, items, None, [{"answer": text, "finish_reason": reason} for text, reason in rows])
    remark(f"{path}: {len(items)} answers")


def _texts(prompts: list[str], info: CloudAI100ExecInfo) -> str:
    if len(prompts) == 1:
        return info.generated_texts[0]
    pairs = zip(prompts, info.generated_texts, strict=True)
    return "\n\n".join(f"> {prompt}\n{text}" for prompt, text in pairs)


def _described(compiled: CompiledDecoder[Any], prompts: list[str], info: CloudAI100ExecInfo) -> dict[str, Any]:
    rows = zip(prompts, info.generated_texts, info.generated_ids, info.finish_reasons, strict=True)
    answers: list[dict[str, Any]] = [
        {"prompt": prompt, "text": text, "token_ids": ids.tolist(), "finish_reason": reason}
        for prompt, text, ids, reason in rows
    ]
    for row, logprobs in zip(answers, info.logprobs, strict=False):  # there are none unless they are asked for
        row["logprobs"] = [asdict(token) for token in logprobs]
    return {
        "package": str(compiled.path),
        "answers": answers,
        "batch_size": info.batch_size,
        "perf_metrics": {**asdict(info.perf_metrics), "first_token_times": info.first_token_times},
    }
