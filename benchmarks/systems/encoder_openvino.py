"""OpenVINO as it comes: transformers' exporter, dynamic shapes, OpenVINO's own choice of precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.systems.encoder import EncoderRunner, mean_pooled


def prepare(checkpoint: Path, folder: Path, *, num_threads: int) -> None:
    """Export the model to OpenVINO's format."""
    import openvino as ov
    import torch
    from transformers import AutoModel
    from transformers.exporters.exporter_openvino import OpenVINOConfig, OpenVINOExporter

    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    inputs = {name: torch.ones(2, 8, dtype=torch.long) for name in ("input_ids", "attention_mask", "token_type_ids")}
    exported = OpenVINOExporter().export(model, inputs, config=OpenVINOConfig(dynamic=True)).program
    del exported.get_rt_info()["runtime_options"]  # the exporter pins float32; see openvino_genai.py
    ov.save_model(exported, folder / "model.xml", compress_to_fp16=False)


class Runner(EncoderRunner):
    """The model with transformers' tokenizer padding to the longest text."""

    def __init__(self, checkpoint: Path, folder: Path, *, num_threads: int):
        import openvino as ov
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        config = {"INFERENCE_NUM_THREADS": num_threads, "PERFORMANCE_HINT": "LATENCY"}
        self._model = ov.Core().compile_model(folder / "model.xml", "CPU", config)

    def encode(self, texts: list[str]) -> np.ndarray:
        inputs = dict(self._tokenizer(texts, padding=True, return_tensors="np"))
        return mean_pooled(self._model(inputs)["last_hidden_state"], inputs["attention_mask"])
