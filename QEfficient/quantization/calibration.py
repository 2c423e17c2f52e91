"""Runs a text through a model, and rounds each layer with what its linear modules read.

One forward pass of all sequences. Before a layer runs, a hook runs it once with its dense weights and watches its
linear modules; then the weights are rounded, and the layer runs with what will be stored. So every layer is rounded
for the inputs that it will get. Only hooks of PyTorch are used: any model whose layers are a list will do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from QEfficient.errors import NumericError, OptionError, UnsupportedModel
from QEfficient.exporter.layers import layer_modules
from QEfficient.progress import counted
from QEfficient.quantization.awq import round_clipped, scale_layer
from QEfficient.quantization.gptq import round_gptq
from QEfficient.quantization.observation import LayerRun, Observed
from QEfficient.quantization.options import QuantizeOptions
from QEfficient.quantization.report import LayerError, energy, layer_error
from QEfficient.quantization.rounding import Rounded, round_weight
from QEfficient.quantization.schemes import Scheme
from QEfficient.quantization.selection import Selection, stored_parameters
from QEfficient.transformers.checkpoint.from_checkpoint import read_parameters
from QEfficient.transformers.checkpoint.packed import Stored
from QEfficient.verify.reference import fitting_len

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Calibrated:
    """The result of a calibration."""

    rounded: dict[str, Rounded] = field(default_factory=dict)
    """By names of modules."""
    replaced: dict[str, torch.Tensor] = field(default_factory=dict)
    """Other tensors that changed, by the names that they are stored under."""
    errors: list[LayerError] = field(default_factory=list)


def calibrate(
    model: PreTrainedModel, selection: Selection, ids: list[int], options: QuantizeOptions, scheme: Scheme
) -> Calibrated:
    """Round the chosen layers of a model.

    Args:
        model: its parameters unread; they are read, in float32, and changed.
        selection: of its layers.
        ids: the calibration text.
        options: method and lengths.
        scheme: how numbers are stored.

    Raises:
        OptionError: the text has no token.
        UnsupportedModel: the model has no list of layers.
        NumericError: an input of a layer is not finite.
    """
    stored = stored_parameters(model)
    read_parameters(model)
    model.float()
    layers = layer_modules(model, model.config.get_text_config(decoder=True).num_hidden_layers)
    if not layers:
        raise UnsupportedModel(
            f"{type(model).__name__} has no list of layers to calibrate one by one: use method='rtn'."
        )
    job = _Job(model, selection, stored, options.method, scheme)
    with counted("Calibrating", f"{len(layers)} layers", len(layers)) as advance, job.watching(layers, advance):
        _run(model, _sequences(ids, options, model))
    job.round_rest()
    return job.result


def _sequences(ids: list[int], options: QuantizeOptions, model: PreTrainedModel) -> torch.Tensor:
    """The calibration text ``[sequences, length]``; what does not fill a sequence is left out."""
    ids = ids[: options.calibration_tokens]
    length = min(fitting_len(model, options.ctx_len), len(ids))
    if not length:
        raise OptionError("The calibration text has no token.")
    num_sequences = len(ids) // length
    return torch.tensor(ids[: num_sequences * length]).reshape(num_sequences, length)


class _Done(Exception):
    """The last layer has run: what follows it is not needed."""


def _run(model: PreTrainedModel, ids: torch.Tensor) -> None:
    try:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
    except _Done:
        pass


class _Job:
    """One calibration."""

    def __init__(
        self, model: nn.Module, selection: Selection, stored: Mapping[str, Stored], method: str, scheme: Scheme
    ):
        self.result = Calibrated()
        linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        self._chosen = {name: linears[name] for name in selection.chosen}
        self._dtypes = {name: each.tensor.dtype for name, each in selection.chosen.items()}
        self._method, self._scheme = method, scheme
        self._round = {"awq": round_clipped, "gptq": round_gptq}[method]
        self._stored = _stored_alone(model, stored)
        self._weights = {id(module.weight) for module in self._chosen.values()}

    @contextmanager
    def watching(self, layers: Mapping[str, nn.Module], advance: Callable[[], None]) -> Iterator[None]:
        """Round each layer before it runs; stop after the last."""
        last = [*layers.values()][-1]
        pending = dict(layers)

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            name = next((name for name, layer in pending.items() if layer is module), None)
            if name is not None:  # a layer that is called again has its numbers
                del pending[name]
                self._round_layer(name, LayerRun(module, args, kwargs))
                advance()

        def after(*_: object) -> None:
            if not pending:
                raise _Done

        hooks = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers.values()]
        hooks.append(last.register_forward_hook(after))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _round_layer(self, layer: str, run: LayerRun) -> None:
        names = {name: module for name, module in self._chosen.items() if name.startswith(f"{layer}.")}
        observed = run.observe(names)
        for name, each in observed.items():
            if not each.hessian.isfinite().all():
                raise NumericError(f"An input of '{name}' is not finite on the calibration text.")
        if self._method == "awq":
            observed, changed = scale_layer(run, names, observed, self._scheme, {*self._stored})
            self._replace(changed)
        for name, module in names.items():
            if name in observed:
                self._keep(name, module, *self._calibrated(name, module, observed[name]), observed[name])
            else:
                self._keep(name, module, "rtn", self._nearest(name, module), None)

    def _replace(self, changed: list[nn.Parameter]) -> None:
        """Note parameters that took in scales, rounded as they are stored; weights to quantise come later."""
        for parameter in changed:
            if id(parameter) not in self._weights:
                stored = self._stored[id(parameter)]
                parameter.data = parameter.data.to(stored.tensor.dtype).float()
                self.result.replaced[stored.name] = parameter.data

    def _calibrated(self, name: str, module: nn.Linear, observed: Observed) -> tuple[str, Rounded]:
        """The method's numbers, or those of rounding to nearest where they are better."""
        weight = module.weight.detach()
        plain = self._nearest(name, module)
        better = self._round(weight, observed.hessian, self._scheme, self._dtypes[name])
        errors = [energy(each.expand() - weight, observed.hessian) for each in (plain, better)]
        if errors[1] <= errors[0]:
            return self._method, better
        return ("awq" if self._method == "awq" else "rtn"), plain  # awq's scales are in both

    def _nearest(self, name: str, module: nn.Linear) -> Rounded:
        return round_weight(module.weight.detach(), self._scheme, self._dtypes[name])

    def _keep(self, name: str, module: nn.Linear, method: str, rounded: Rounded, observed: Observed | None) -> None:
        hessian = None if observed is None else observed.hessian
        self.result.errors.append(layer_error(name, method, module.weight.detach(), rounded, hessian))
        self.result.rounded[name] = rounded
        module.weight.data = rounded.expand().to(self._dtypes[name]).float()

    def round_rest(self) -> None:
        """Round to nearest what is in no layer."""
        for name, module in self._chosen.items():
            if name not in self.result.rounded:
                self._keep(name, module, "rtn", self._nearest(name, module), None)


def _stored_alone(model: nn.Module, stored: Mapping[str, Stored]) -> dict[int, Stored]:
    """The parameters that one module has, by identity, and the tensors that they are stored as."""
    num_users = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    parameters = dict(model.named_parameters())
    return {id(parameters[name]): each for name, each in stored.items() if num_users[id(parameters[name])] == 1}
