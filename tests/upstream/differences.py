"""What scripts read or rely on that is different here, on purpose: the line of theirs, and the line to write."""

from __future__ import annotations

from upstream.usage import works

_COMPILE = "model.compile(prefill_seq_len=8, ctx_len=32, num_cores=4)"
_GENERATE = "info = compiled.generate(tokenizer, ['My name is'], generation_len=4)\n"

DIFFERENCES = (
    works(
        "exec_info.generated_ids[0][:, :generation_len]",
        _GENERATE + "ids = info.padded_ids(32, tokenizer.pad_token_id)[:, :4]",
        "assert ids.shape == (1, 4)",
        note="`generated_ids` is a list with the new tokens of each prompt; `padded_ids(length, pad_token_id)` is the "
        "padded array",
    ),
    works(
        "exec_info.generated_texts[0][0]",
        _GENERATE + "text = info.generated_texts[0]",
        "assert [text] == first",
        note="`generated_texts` is a list of texts, with and without continuous batching",
    ),
    works(
        "exec_info.perf_metrics.decode_perf * exec_info.batch_size",
        _GENERATE + "speed = info.perf_metrics.decode_perf * info.perf_metrics.num_sequences",
        "assert speed > 0",
        note="without continuous batching, `decode_perf` and `total_perf` are of one sequence, as there; on `cpu` "
        "always of all together. `num_sequences` is the factor; `batch_size` is how many ran at once",
    ),
    works(
        "model.export(export_dir='folder')",
        "path = model.export(tmp / 'folder')",
        "assert path == tmp / 'folder' / 'model.onnx'",
        note="the folder is the one that is named; no hash is appended. The same holds for `compile_dir`",
    ),
    works(
        "model.compile(...).replace('/qpc', '')",
        f"path = {_COMPILE}",
        "from pathlib import Path\nassert isinstance(path, Path) and (path / 'manifest.json').is_file()",
        note="`export` and `compile` return a `pathlib.Path`; that of `compile` is the package's folder, with `qpc` "
        "and a link to the program in it",
    ),
    works(
        "model.export(); model.model.generate(...)",
        "model.export(prefill_seq_len=8, ctx_len=32)\nids = model.model.generate(input_ids, max_new_tokens=2)",
        "assert ids.shape[1] == input_ids.shape[1] + 2",
        note="the Hugging Face model stays as it is: an export takes no weights away, and no class is changed",
    ),
    works(
        "QEfficient.transform(hf_model)",
        "import QEfficient\nmodel = QEfficient.transform(hf_model)",
        "assert model.model is hf_model",
        note="it returns a wrapper, and does not change the model in place",
    ),
    works(
        "generate() with fewer prompts than slots",
        "info = compiled.generate(tokenizer, ['My name is'] * 3, generation_len=4)",
        "assert info.generated_texts == first * 3",
        note="any number of prompts runs over any number of slots: none is dropped or repeated",
    ),
    works(
        "compile(comp_ctx_lengths_prefill=[16], comp_ctx_lengths_decode=[16])",
        "model.compile(prefill_seq_len=8, ctx_len=32, num_cores=9, comp_ctx_lengths_prefill=[16],"
        " comp_ctx_lengths_decode=[16])",
        "assert [each['symbols']['comp_ctx_lengths'] for each in shapes()] == ['16', '32'] * 2",
        note="lengths are not lowered where prefill and decode have the same; `ctx_len` is always the last",
    ),
)
