"""The paged attention node on its way through OpenVINO.

In ONNX and in a package's IR it is a custom operator, because OpenVINO can run its PagedAttentionExtension but not
read it back from a file. Just before compilation OpenVINO's operator replaces the custom one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from openvino import Op
from openvino.frontend.onnx import ConversionExtension
from openvino.op import _PagedAttentionExtension

from QEfficient.compile.native_callbacks import interruptible, native_callback

if TYPE_CHECKING:
    from openvino._pyopenvino import AttributeVisitor

BLOCK_LEN = 32
"""Tokens in a block of OpenVINO's CPU cache."""

_ATTRIBUTES: dict[str, Any] = {
    "num_heads": 0,
    "num_kv_heads": 0,
    "key_dim": 0,
    "value_dim": 0,
    "scale": 1.0,
    "window": 0,
    "has_sink": 0,
}
_SINK = 10
_CREATED: ContextVar[list[Op] | None] = ContextVar("created operators", default=None)
"""The operators that OpenVINO made within the current :func:`custom_operators`."""


class PagedAttention(Op):
    """``qeff::PagedAttention`` as an OpenVINO operator that only infers shapes."""

    @native_callback
    def __init__(self, inputs: list[Any] | None = None, **attributes: float):
        super().__init__(self)
        self.attributes = {**_ATTRIBUTES, **attributes}
        if (created := _CREATED.get()) is not None:
            created.append(self)
        if inputs is not None:
            self.set_arguments(inputs)
            self.constructor_validate_and_infer_types()

    @native_callback
    def validate_and_infer_types(self) -> None:
        num_tokens = self.get_input_partial_shape(0)[0]
        width = self.attributes["num_heads"] * self.attributes["value_dim"]
        self.set_output_type(0, self.get_input_element_type(0), ov.PartialShape([num_tokens, width]))

    @native_callback
    def clone_with_new_inputs(self, new_inputs: list[Any]) -> PagedAttention:
        return PagedAttention(new_inputs, **self.attributes)

    @native_callback
    def visit_attributes(self, visitor: AttributeVisitor) -> bool:
        visitor.on_attributes(self.attributes)
        return True


@contextmanager
def custom_operators(core: ov.Core) -> Iterator[None]:
    """Let ``core`` read the custom operator from ONNX and from IR. Models with it are only valid inside. See
    :func:`interruptible` for what is raised.

    OpenVINO never frees an operator that is written in Python, nor the graph that it is connected to, whose constants
    map the file of weights. So its inputs are cut off at the end.
    """
    created: list[Op] = []
    token = _CREATED.set(created)
    try:
        with interruptible():
            core.add_extension(PagedAttention)
            core.add_extension(ConversionExtension("PagedAttention", "qeff", _from_onnx))
            yield
    finally:
        _CREATED.reset(token)
        nothing = _empty(np.float32)
        for operator in created:
            for index in range(operator.get_input_size()):
                operator.input(index).replace_source_output(nothing)


@native_callback
def _from_onnx(node: Any) -> list[Any]:
    attributes = {name: node.get_attribute(name, default) for name, default in _ATTRIBUTES.items()}
    num_inputs = _SINK + attributes["has_sink"]
    return [PagedAttention([node.get_input(i) for i in range(num_inputs)], **attributes).output(0)]


def is_paged(model: ov.Model) -> bool:
    """Whether ``model`` has custom paged attention nodes."""
    return any(node.get_type_name() == "PagedAttention" for node in model.get_ops())


def to_plugin_form(model: ov.Model) -> None:
    """Replace the custom operator with OpenVINO's, in place; the plugin chooses the caches' dtype and layout."""
    for node in list(model.get_ops()):
        if node.get_type_name() == "PagedAttention":
            node.output(0).replace(_plugin_node(node).output(0))
    for parameter in model.get_parameters():
        if parameter.output(0).get_any_name().startswith(("key_cache.", "value_cache.")):
            parameter.set_element_type(ov.Type.dynamic)
            parameter.set_partial_shape(ov.PartialShape([-1, -1, -1, -1]))
    model.validate_nodes_and_infer_types()


def _plugin_node(node: Any) -> Any:
    attributes = node.get_attributes()
    sources = [node.input(i).get_source_output() for i in range(node.get_input_size())]
    sinks = sources[_SINK] if attributes["has_sink"] else _empty(np.float32)
    # The 28 inputs of OpenVINO 2026.4; those that turn on a feature we do not use are empty.
    inputs = [
        *sources[:9],  # query, key, value, caches, past_lens, subsequence_begins, block_indices, block_indices_begins
        _constant(attributes["scale"], np.float32),
        _constant(attributes["window"], np.int32),
        _empty(np.float32),  # alibi_slopes
        sources[9],  # max_context_len
        _empty(np.int32),  # score_aggregation_window
        _empty(np.int32),  # rotated_block_indices
        _empty(np.int32),  # rotation_deltas
        _empty(np.float32),  # rotation_trig_lut
        _empty(np.float32),  # xattention_threshold
        _constant(64, np.int32),  # xattention_block_size
        _constant(8, np.int32),  # xattention_stride
        sinks,
        _constant(0, np.int32),  # adaptive_rkv_start_size
        _empty(np.int32),  # adaptive_rkv_evictable_sizes
        _empty(np.int32),  # adaptive_rkv_diversity_block_set_indices
        _empty(np.int32),  # adaptive_rkv_diversity_block_set_indices_begins
        _empty(np.int32),  # token_type_ids
        _empty(np.uint8),  # qq_bias
        _empty(np.int32),  # qq_bias_begins
    ]
    plugin_node = _PagedAttentionExtension(inputs)
    info = plugin_node.get_rt_info()
    for name, value in (
        ("num_k_heads", attributes["num_kv_heads"]),
        ("k_head_size", attributes["key_dim"]),
        ("num_v_heads", attributes["num_kv_heads"]),
        ("v_head_size", attributes["value_dim"]),
    ):
        info[name] = value
    return plugin_node


def _constant(value: float, dtype: type) -> Any:
    return ops.constant(np.array(value, dtype=dtype)).output(0)


def _empty(dtype: type) -> Any:
    return ops.constant(np.zeros((0,), dtype)).output(0)
