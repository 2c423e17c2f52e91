"""Stand-ins for what these tests must not need: a tiny graph in upstream's contract, and SDK trees with scripts as
compilers."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from QEfficient.compile.qaic_sdk import QaicSDK
from QEfficient.contract import CompileJob, Specialization
from QEfficient.options import CausalLMCompileOptions

GOOD_QPC = struct.pack("<IBBHQQ", 0x00A1CD7C, 0, 1, 0, 32, 0) + b"12345678"

WRITE_QPC = f"""
import pathlib, sys
folder = pathlib.Path(next(a for a in sys.argv if a.startswith("-aic-binary-dir=")).partition("=")[2])
folder.mkdir()
(folder / "programqpc.bin").write_bytes({GOOD_QPC!r})
print("compiled")
"""

APPS_XML = "<versions><ci_build><base_version>{base}</base_version><build_id>{build}</build_id></ci_build></versions>"


def script(path: Path, code: str) -> Path:
    """An executable Python file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable} -S\n{code}")
    path.chmod(0o755)
    return path


def sdk_tree(
    root: Path, *, version: str | None = "1.22", compiler: str = "qaic-compile", code: str = WRITE_QPC
) -> QaicSDK:
    """An SDK in ``root`` whose compiler runs ``code``."""
    script(root / "exec" / compiler, code)
    if version is not None:
        (root / "versions").mkdir(exist_ok=True)
        (root / "versions" / "apps.xml").write_text(APPS_XML.format(base=version, build=41))
    found = QaicSDK.find(root)
    assert found is not None
    return found


def job(*specializations: tuple[str, dict[str, int]], **options: Any) -> CompileJob:
    """A causal LM's job: by default a prefill of 8 and a decode over a context of 32."""
    given = specializations or (
        ("Prefill", {"batch_size": 1, "seq_len": 8, "ctx_len": 32}),
        ("Decode", {"batch_size": 1, "seq_len": 1, "ctx_len": 32}),
    )
    return CompileJob(
        specializations=tuple(Specialization(name=name, symbols=symbols) for name, symbols in given),
        options=CausalLMCompileOptions(**options),
    )


def value(name: str, dtype: int, *shape: int | str) -> onnx.ValueInfoProto:
    """An input or output."""
    return helper.make_tensor_value_info(name, dtype, shape)


def decoder(path: Path, num_layers: int = 2, extra_state: tuple[str, int] | None = None) -> Path:
    """A graph of upstream's contract, whose weights lie in a file that is not there."""
    i64, f32 = TensorProto.INT64, TensorProto.FLOAT
    shape = ("batch_size", 2, "ctx_len", 4)
    ids = [value(name, i64, "batch_size", "seq_len") for name in ("input_ids", "position_ids")]
    kinds = [(f"past_{half}.{layer}", f32) for layer in range(num_layers) for half in ("key", "value")]
    kinds += [extra_state] if extra_state else []
    state = [value(name, kind, *shape) for name, kind in kinds]
    kept = [value(f"{name}_RetainedState", kind, *shape) for name, kind in kinds]
    nodes = [helper.make_node("Cast", ["input_ids"], ["embedded"], name="embed", to=f32)]
    last = "embedded"
    for layer in range(num_layers):
        # As the exporter leaves them: generic names, the weight and the end of the layer tell which one it is.
        nodes += [
            helper.make_node("Identity", [f"past_key.{layer}"], [f"past_key.{layer}_RetainedState"], name=f"k{layer}"),
            helper.make_node("Mul", [last, f"model.layers.{layer}.weight"], [f"m{layer}"], name=f"mul_{layer}"),
            helper.make_node("Relu", [f"m{layer}"], [f"layer.{layer}"], name=f"relu_{layer}"),
            helper.make_node(
                "Identity", [f"past_value.{layer}"], [f"past_value.{layer}_RetainedState"], name=f"v{layer}"
            ),
        ]
        last = f"layer.{layer}"
    nodes += [
        helper.make_node("Identity", [name], [f"{name}_RetainedState"], name=name)
        for name, _ in kinds[2 * num_layers :]
    ]
    nodes.append(helper.make_node("Unsqueeze", [last, "axis"], ["logits"], name="head"))
    weights = [_absent(f"model.layers.{layer}.weight") for layer in range(num_layers)]
    weights.append(helper.make_tensor("axis", i64, [1], [1]))
    outputs = [value("logits", f32, "batch_size", 1, "seq_len"), *kept]
    graph = helper.make_graph(nodes, "decoder", [*ids, *state], outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def _absent(name: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="nowhere.data")
    return tensor
