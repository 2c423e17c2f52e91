"""OpenVINO GenAI's continuous batching pipeline.

Its own way of exporting is optimum-intel, which does not take this transformers; what follows makes the same: the
stateful IR of transformers' OpenVINO exporter, compressed by NNCF with optimum's defaults.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.answers import Answer

_PAST_LEN, _NEW_LEN = 3, 4


def prepare(checkpoint: Path, folder: Path, *, num_threads: int, weights: str) -> None:
    """Export, compress, and convert the tokenizer."""
    import nncf
    import openvino as ov
    from transformers import AutoModelForCausalLM

    compression = {
        "int8": {"mode": nncf.CompressWeightsMode.INT8_ASYM},
        "int4": {"mode": nncf.CompressWeightsMode.INT4_ASYM, "group_size": 128, "ratio": 1.0},
    }
    source = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="auto").eval()
    # The exported model points into the source's memory, which must live until the file is written.
    model = nncf.compress_weights(_export(source), **_fitting(compression[weights], source.config))
    ov.save_model(model, folder / "openvino_model.xml", compress_to_fp16=False)
    _save_tokenizer(checkpoint, folder)
    for path in checkpoint.glob("*.json"):
        shutil.copy(path, folder)


def _fitting(compression: dict[str, Any], config: Any) -> dict[str, Any]:
    """Without the group size where the layers are narrower than a group."""
    narrow = config.hidden_size < compression.get("group_size", 0)
    return {**compression, "group_size": -1} if narrow else compression


def _export(model: Any) -> Any:
    import torch
    from transformers.exporters.exporter_openvino import OpenVINOConfig, OpenVINOExporter

    inputs = {
        "input_ids": torch.ones(2, _NEW_LEN, dtype=torch.long),
        "attention_mask": torch.ones(2, _PAST_LEN + _NEW_LEN, dtype=torch.long),
        "position_ids": torch.arange(_PAST_LEN, _PAST_LEN + _NEW_LEN).repeat(2, 1),
        "past_key_values": _sample_cache(model),
    }
    exported = OpenVINOExporter().export(model, inputs, config=OpenVINOConfig(dynamic=True, stateful=True)).program
    # The exporter pins compute and cache to the checkpoint's dtype; optimum leaves them to OpenVINO, which is faster.
    del exported.get_rt_info()["runtime_options"]
    return exported


def _sample_cache(model: Any) -> Any:
    import torch
    from transformers import DynamicCache

    cache, config = DynamicCache(config=model.config), model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for layer in range(config.num_hidden_layers):
        state = torch.zeros(2, config.num_key_value_heads, _PAST_LEN, head_dim, dtype=model.dtype)
        cache.update(state, state.clone(), layer)
    return cache


def _save_tokenizer(checkpoint: Path, folder: Path) -> None:
    import openvino as ov
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    converted = convert_tokenizer(AutoTokenizer.from_pretrained(checkpoint), with_detokenizer=True)
    for name, model in zip(("tokenizer", "detokenizer"), converted, strict=True):
        ov.save_model(model, folder / f"openvino_{name}.xml")


class Runner:
    """The pipeline, driven step by step so that each token's arrival is seen."""

    def __init__(self, checkpoint: Path, folder: Path, *, num_threads: int, weights: str):
        import openvino_genai as genai

        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 1  # GiB
        scheduler.max_num_batched_tokens = 1 << 20  # prompts in one piece, as its LLMPipeline takes them
        self._pipeline = genai.ContinuousBatchingPipeline(
            str(folder), scheduler, "CPU", {"INFERENCE_NUM_THREADS": num_threads}
        )

    def answer(self, prompts: list[list[int]], num_new_tokens: int) -> Answer:
        """See :mod:`benchmarks.systems`."""
        import numpy as np
        import openvino as ov
        import openvino_genai as genai

        config = genai.GenerationConfig(max_new_tokens=num_new_tokens, ignore_eos=True, do_sample=False)
        began = time.perf_counter()
        handles = [
            self._pipeline.add_request(index, ov.Tensor(np.array([ids], np.int64)), config)
            for index, ids in enumerate(prompts)
        ]
        answer = Answer([[] for _ in prompts], [[] for _ in prompts])
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            now = time.perf_counter() - began
            for handle, ids, arrivals in zip(handles, answer.ids, answer.arrivals, strict=True):
                if handle.can_read():
                    new = next(iter(handle.read().values())).generated_ids
                    ids.extend(new)
                    arrivals.extend([now] * len(new))
        return answer
