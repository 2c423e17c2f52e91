"""Every patch of third-party code: a context manager, its reason, and the version that makes it obsolete."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial, update_wrapper
from threading import get_ident
from typing import Any

import onnx_ir as ir
import torch
import torch._dynamo.config
import torch.fx.config
from onnxscript import opset18 as op
from onnxscript.rewriter._rewrite_rule import RewriteRule
from torch import fx, nn
from torch._export.passes import replace_set_grad_with_hop_pass
from torch._subclasses import fake_tensor
from torch.export import ExportedProgram
from torch.onnx._internal.exporter import _constants, _fx_passes, _registration
from torch.onnx._internal.fx.passes import type_promotion
from transformers import masking_utils


@contextmanager
def reused_onnx_registry() -> Iterator[None]:
    """Build torch.onnx's operator registry once per process, not once per export (about 1 s each).

    torch 2.13; goes when ``torch.onnx.export`` caches it. Safe because an export gets a copy to add to.
    """
    original = vars(_registration.ONNXRegistry)["from_torchlib"]
    build = _registration.ONNXRegistry.from_torchlib

    def reused(opset_version: int = _constants.TORCHLIB_OPSET) -> _registration.ONNXRegistry:
        built = _torchlib(build, opset_version)
        copied = _registration.ONNXRegistry()
        copied._opset_version = built._opset_version
        copied.functions = {target: list(overloads) for target, overloads in built.functions.items()}
        return copied

    setattr(_registration.ONNXRegistry, "from_torchlib", staticmethod(reused))  # noqa: B010
    try:
        yield
    finally:
        setattr(_registration.ONNXRegistry, "from_torchlib", original)  # noqa: B010


@cache
def _torchlib(build: Any, opset_version: int) -> _registration.ONNXRegistry:
    registry = build(opset_version)
    # torch 2.13 has none for complex numbers, whose pairs are one more axis at the end; goes when it has.
    registry.register_op(torch.ops.aten.unsqueeze.default, _unsqueeze_complex, is_complex=True)
    return registry


def _unsqueeze_complex(self: Any, dim: int) -> Any:
    axes = op.Constant(value_ints=[dim if dim >= 0 else dim - 1])
    return op.Unsqueeze(self, axes)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep torch.onnx from warning, at each export, about things that users cannot change.

    torch 2.13: that torchvision is not installed (goes when a missing optional package is no longer a warning
    there), and that copies inside pytree use a deprecated check (goes when they do not).
    """
    noisy = logging.getLogger(_registration.__name__)
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            yield
    finally:
        noisy.setLevel(level)


@contextmanager
def quiet_shapes() -> Iterator[None]:
    """Keep torch from logging a traceback for each operator that refuses the shapes of fake tensors.

    torch 2.13; goes when such refusals are logged below the level of errors.
    """
    noisy = logging.getLogger(fake_tensor.__name__)
    level = noisy.level
    noisy.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        noisy.setLevel(level)


@contextmanager
def own_decomposition(decompose: Callable[[ExportedProgram, _registration.ONNXRegistry], bool]) -> Iterator[None]:
    """Decompose a program with ``decompose``, in place; where it returns False, torch.onnx decomposes it.

    torch 2.13, which traces the whole graph twice more for it: half of an export. Goes when
    ``ExportedProgram.run_decompositions`` copies the nodes that do not decompose.
    """
    original = _fx_passes.decompose_with_registry

    def decomposed(program: ExportedProgram, registry: _registration.ONNXRegistry) -> ExportedProgram:
        return program if decompose(program, registry) else original(program, registry)

    with patched(_fx_passes, "decompose_with_registry", decomposed):
        yield


@contextmanager
def functions_replaced(model: nn.Module, functions: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Let the modeling files of ``model``, and transformers' masks, call ``functions`` in place of their namesakes.

    transformers 5.23 has no registry for its kernels in plain PyTorch, as it has for attention, nor for the blocks of
    its masks; goes when it has.
    """
    files = {masking_utils} | {sys.modules[type(module).__module__] for module in model.modules()}
    targets = [(file, name) for file in files for name in functions if hasattr(file, name)]
    originals = [getattr(file, name) for file, name in targets]
    for file, name in targets:
        setattr(file, name, functions[name])
    try:
        yield
    finally:
        for (file, name), original in zip(targets, originals, strict=True):
            setattr(file, name, original)


@contextmanager
def results_noted(model: nn.Module, prefix: str, note: Callable[[Any], None]) -> Iterator[None]:
    """Tell ``note`` what the functions return that the modeling files of ``model`` call by names with ``prefix``.

    transformers 5.23 computes sizes and places of images in such functions; goes when a module says what it computed.
    """

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            note(result)
            return result

        return call

    files = {sys.modules[type(module).__module__] for module in model.modules()}
    named = [(file, name, value) for file in files for name, value in vars(file).items() if name.startswith(prefix)]
    targets = [(file, name, value) for file, name, value in named if callable(value)]
    for file, name, function in targets:
        setattr(file, name, noted(function))
    try:
        yield
    finally:
        for file, name, function in targets:
            setattr(file, name, function)


class _Promotion(type_promotion._TypePromotionInterpreter):
    """Takes all values from the trace and computes only those of changed nodes."""

    def run_node(self, n: fx.Node) -> Any:
        rule = type_promotion.get_type_promotion_rule(n, self.type_promotion_table)
        if rule is not None:
            with self._set_current_node(n):
                self._maybe_promote_node(n, rule)
        return super(type_promotion._TypePromotionInterpreter, self).run_node(n) if n.op == "output" else n.meta["val"]


@contextmanager
def promotion_without_running() -> Iterator[None]:
    """Make torch.onnx's type promotion take values from the trace, instead of running the graph again.

    torch 2.13; goes when ``_TypePromotionInterpreter.run_node`` does not call every operator.
    """
    with patched(type_promotion, "_TypePromotionInterpreter", _Promotion):
        yield


@contextmanager
def rules_by_operator() -> Iterator[None]:
    """Try onnxscript's rewrite rules only at nodes with the last operator of their pattern.

    onnxscript 0.7, which tries all 60 at each node: half of an optimization; goes when it checks the operator first.
    """
    original = RewriteRule.try_rewrite

    def try_rewrite(rule: RewriteRule, model: Any, graph: Any, node: ir.Node, **options: Any) -> Any:
        return original(rule, model, graph, node, **options) if _may_end(rule, node.domain, node.op_type) else None

    with patched(RewriteRule, "try_rewrite", try_rewrite):
        yield


@cache
def _may_end(rule: RewriteRule, domain: str, op_type: str) -> bool:
    last = rule._target_pattern.output_nodes[0]
    return last.domain.matches(domain) and last.op.matches(op_type)


@contextmanager
def patched(owner: object, name: str, replacement: object) -> Iterator[None]:
    """Set ``owner.name`` to ``replacement`` inside the block."""
    original = vars(owner)[name]
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def tensor_method_replaced(name: str, function: Callable[..., torch.Tensor]) -> Iterator[None]:
    """Call ``function`` for the method ``name`` of tensors.

    transformers 5.23 places features with ``Tensor.masked_scatter`` and has no hook for it; goes when it has.
    """
    usual = vars(torch.Tensor).get(name)
    setattr(
        torch.Tensor, name, lambda *args, **kwargs: function(*args, **kwargs)
    )  # as a method, which a bound one would not become
    try:
        yield
    finally:
        if usual is None:
            delattr(torch.Tensor, name)
        else:
            setattr(torch.Tensor, name, usual)


@contextmanager
def lean_tracing() -> Iterator[None]:
    """Make torch.export record no line numbers, cache no fake tensors, and drop the model's switches of gradients.

    torch 2.13. Line numbers take a fifth of a trace and are not used; goes when they are off by default. The cache of
    fake tensors takes a quarter: its keys hold symbolic sizes, and it computes the strides of a hit again; goes when a
    hit is faster than the operator. Around each switch the graph is split and joined again, although an export has no
    gradients; goes when ``replace_set_grad_with_hop_pass`` first checks whether a switch changes anything.
    """

    def without_switches(module: fx.GraphModule, signature: Any) -> tuple[fx.GraphModule, Any]:
        graphs = [part.graph for part in module.modules() if isinstance(part, fx.GraphModule)]
        for node in [node for graph in graphs for node in graph.nodes]:
            if node.target is torch._C._set_grad_enabled:
                node.graph.erase_node(node)
        return module, signature

    with (
        patched(fx.config, "do_not_emit_stack_traces", True),
        torch._dynamo.config.patch(fake_tensor_cache_enabled=False),
        patched(replace_set_grad_with_hop_pass, "replace_set_grad_with_hop_pass", without_switches),
    ):
        yield


@contextmanager
def bags_as_rows() -> Iterator[None]:
    """Make ``embedding_bag`` of equally long bags with weights a gather and a sum.

    torch.onnx 2.13 writes a loop over sequences, which OpenVINO and the card do not read; goes when it does not.
    """
    usual = nn.functional.embedding_bag

    def embedding_bag(indices: torch.Tensor, table: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        weights = options.get("per_sample_weights")
        if args or indices.ndim != 2 or weights is None:
            return usual(indices, table, *args, **options)
        return (nn.functional.embedding(indices, table) * weights[..., None]).sum(-2)  # "sum", the only mode with them

    with patched(nn.functional, "embedding_bag", embedding_bag):
        yield


def _calling(replacement: Callable[..., Any], usual: Callable[..., Any]) -> Callable[..., Any]:
    """``replacement``, which gets ``usual`` first, under the name of it: torch lists its functions by their names."""
    return update_wrapper(partial(replacement, usual), usual)


def _divided(divide: Callable[..., Any], x: Any, y: Any, **options: Any) -> Any:
    is_size = isinstance(x, int | torch.SymInt) and isinstance(y, int) and options.get("rounding_mode") is not None
    return x // y if is_size else divide(x, y, **options)


@contextmanager
def traceable_sizes() -> Iterator[None]:
    """Make ``torch.div`` of a size return a size, and a module's ``to`` do nothing.

    torch 2.13 makes the first a tensor, whose value tracing does not know; goes when it does not. The second swaps
    parameters, which fails under tracing; a traced copy is float32 throughout, so it is not needed.
    """
    with (
        patched(torch, "div", _calling(_divided, torch.div)),
        patched(nn.Module, "to", lambda module, *args, **kwargs: module),
    ):
        yield


@contextmanager
def weights_opened_by(
    open_file: Callable[..., Any],
    paths: list[str],
    *,
    in_this_thread: bool,
    conversions: Callable[[Any], list[Any]] | None = None,
) -> Iterator[None]:
    """Let transformers load the files ``paths`` and no others in this thread, each opened with ``open_file``.

    transformers 5.23 picks the files itself: by their names, also those that a config or an index names, and unpickles
    what is not called safetensors. It has no other way to load a model whose weights are not read either:
    ``state_dict=`` takes neither a checkpoint's folder nor its own code. Goes when ``from_pretrained`` takes a list of
    files and a reader of them.

    ``in_this_thread``: read no tensor in another one. Its threads know no dispatch mode of this one; the switch that
    turns them off is an environment variable of the process.

    ``conversions``: gives a model's conversions of weights, instead of those of its class.
    """
    from transformers import core_model_loading, modeling_utils

    is_set = core_model_loading.is_env_variable_true
    resolve, open_safe = modeling_utils._get_resolved_checkpoint_files, modeling_utils.safe_open
    distributed, thread = modeling_utils.get_distributed_checkpoint_dir, get_ident()
    usual = modeling_utils.get_model_conversion_mapping

    def here(ours: Callable[..., Any], theirs: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **options: (ours if get_ident() == thread else theirs)(*args, **options)

    def converted(model: Any, *args: Any, **options: Any) -> Any:
        return usual(model, *args, **options) if conversions is None else conversions(model)

    def is_variable_set(name: str) -> bool:
        return (in_this_thread and name == "HF_DEACTIVATE_ASYNC_LOAD") or is_set(name)

    with (
        patched(modeling_utils, "_get_resolved_checkpoint_files", here(lambda **_: ([*paths], None), resolve)),
        patched(modeling_utils, "get_distributed_checkpoint_dir", here(lambda *_, **__: None, distributed)),
        patched(modeling_utils, "safe_open", here(open_file, open_safe)),
        patched(modeling_utils, "get_model_conversion_mapping", here(converted, usual)),
        patched(core_model_loading, "is_env_variable_true", here(is_variable_set, is_set)),
    ):
        yield
