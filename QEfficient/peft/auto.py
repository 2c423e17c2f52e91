"""Causal LMs with LoRA adapters that take turns: the adapter's matrices are inputs, which a card keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from QEfficient.base.modeling_qeff import PathLike
from QEfficient.contract import BASE
from QEfficient.errors import CheckpointNotFound, LifecycleError, OptionError
from QEfficient.generation.adapters import AdapterRecord, adapter_file, write_adapter
from QEfficient.generation.tasks.causal_lm import CompiledCausalLM, DecoderRecord
from QEfficient.options import CausalLMCompileOptions, require_bool
from QEfficient.peft.adapted import HUB_OPTIONS, AdaptedCausalLM, HubValue
from QEfficient.peft.lora.auto import QEFFAutoLoraModelForCausalLM
from QEfficient.targets import Target
from QEfficient.transformers.adapters.adapter import LoraAdapter, read_adapter, resolve_adapter
from QEfficient.transformers.adapters.layers import Shapes, matrices, supplied_shapes, with_supplied
from QEfficient.transformers.models.causal_lm import CausalLMPlan
from QEfficient.transformers.tasks.adapter_inputs import supplied_names, supplied_path, with_supplied_inputs
from QEfficient.transformers.tasks.graph_spec import TaskGraph


class QEFFAutoPeftModelForCausalLM(AdaptedCausalLM):
    """A causal LM with LoRA adapters of which one is active at a time.

    Its matrices are inputs of the compiled program, which a card keeps in its memory: :meth:`set_adapter` switches
    without compiling again, also to an adapter that was loaded later and is no larger than those compiled for.

    Args:
        model: a Hugging Face causal LM, already loaded; :meth:`from_pretrained` loads the one of an adapter.
        continuous_batching: upstream's switch; :meth:`compile` with ``full_batch_size`` needs no switch here.
        tokenizer: used by :meth:`generate` and put into the package.
    """

    def _begin(self) -> None:
        super()._begin()
        self._supplied_to: tuple[object, object] | None = None
        """The open package, and the adapter that it runs with."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: PathLike,
        finite_adapters: bool = False,
        adapter_name: str | None = None,
        *,
        trust_remote_code: bool = False,
        **kwargs: Any,
    ) -> AdaptedCausalLM:
        """Load an adapter and the base model that its config names.

        Args:
            pretrained_model_name_or_path: the adapter's folder, or its repository on the Hub.
            finite_adapters: True: give a :class:`QEFFAutoLoraModelForCausalLM`, which selects adapters by prompt.
            adapter_name: what the adapter is called; default: "default".
            trust_remote_code: allow the base model's Python files to run.
            kwargs: as of :meth:`QEFFAutoModelForCausalLM.from_pretrained`; ``revision`` is the adapter's.

        Raises:
            CheckpointNotFound: there is no such adapter, or its base model is not there.
            UnsafeCheckpoint, CorruptCheckpoint, UnsupportedModel: see :meth:`load_adapter`.
        """
        require_bool("finite_adapters", finite_adapters)
        if finite_adapters and adapter_name is None:
            raise OptionError("finite_adapters=True needs adapter_name, by which prompts select the adapter.")
        name = "default" if adapter_name is None else adapter_name
        hub_options = {key: kwargs[key] for key in HUB_OPTIONS if key in kwargs}
        adapter = read_adapter(name, resolve_adapter(pretrained_model_name_or_path, **hub_options))
        if adapter.config.base_model is None:
            raise CheckpointNotFound(
                f"{adapter.folder} does not name its base model: load that with "
                f"{cls.__name__}(...) or QEffAutoLoraModelForCausalLM.from_pretrained(...), and the adapter with "
                "load_adapter()."
            )
        options = {**kwargs, "revision": adapter.config.base_revision, "trust_remote_code": trust_remote_code}
        load = QEFFAutoLoraModelForCausalLM.from_pretrained if finite_adapters else super().from_pretrained
        model: AdaptedCausalLM = load(adapter.config.base_model, **options)
        model.load_adapter(adapter.folder, name)
        return model

    def load_adapter(self, adapter_model_id: PathLike, adapter_name: str, **hub_options: HubValue) -> int:
        number = super().load_adapter(adapter_model_id, adapter_name, **hub_options)
        if number == 1:
            self._active = adapter_name
        return number

    load_adapter.__doc__ = AdaptedCausalLM.load_adapter.__doc__

    def _before_adapters_change(self) -> None:
        self._supplied_to = None

    def _with_adapters(self, base: Any) -> Any:
        return with_supplied(base, list(self._shapes))

    @property
    def _shapes(self) -> Shapes:
        return supplied_shapes(list(self._adapters.values()))

    def _plan(self, options: CausalLMCompileOptions, target: Target) -> CausalLMPlan:
        supplied = tuple((path, *sizes) for path, sizes in self._shapes.items())
        keeps = bool(supplied) and target.has_static_shapes
        return super()._plan(options, target).replaced(supplied=supplied, keeps_supplied=keeps)

    def _graphs(self, plan: CausalLMPlan) -> dict[str, TaskGraph]:
        graphs = super()._graphs(plan)
        if not plan.supplied:
            return graphs
        shapes = {path: (in_features, rank, out_features) for path, in_features, rank, out_features in plan.supplied}
        return {
            name: with_supplied_inputs(graph, shapes, is_retained=plan.keeps_supplied) for name, graph in graphs.items()
        }

    def _session(self, plan: CausalLMPlan, options: CausalLMCompileOptions, target: Target) -> DecoderRecord:
        adapters = tuple(AdapterRecord(name=each.name, digest=each.digest) for each in self._adapters.values())
        return replace(super()._session(plan, options, target), adapters=adapters, takes_turns=bool(adapters))

    def write_side_files(self, folder: Path) -> None:
        super().write_side_files(folder)
        for number, adapter in enumerate(self._adapters.values()):
            write_adapter(folder / adapter_file(number), _inputs(adapter, self._shapes))

    def _open(self, device_ids: Sequence[int] | None = None) -> CompiledCausalLM:
        return self._running(super()._open(device_ids), self._active)

    def _opened_for(self, adapter: str | None) -> tuple[CompiledCausalLM, str | None]:
        return self._running(super()._open(), adapter), None

    def _running(self, compiled: CompiledCausalLM, name: str | None) -> CompiledCausalLM:
        """``compiled`` with an adapter as it is loaded now; of a model opened from a package, as the package has it."""
        adapter = self._adapters.get(name or BASE)
        if self._supplied_to != (compiled, adapter or name):
            inputs = None if adapter is None else _inputs(adapter, _shapes_of(compiled, adapter))
            if not compiled.record.takes_turns:
                return compiled
            compiled.set_adapter(name or BASE, inputs)
            self._supplied_to = (compiled, adapter or name)
        return compiled


QEffAutoPeftModelForCausalLM = QEFFAutoPeftModelForCausalLM


def _inputs(adapter: LoraAdapter, shapes: Shapes) -> dict[str, np.ndarray]:
    """The inputs of a graph for ``adapter``."""
    return {
        name: matrix
        for path, pair in matrices(adapter, shapes).items()
        for name, matrix in zip(supplied_names(path), pair, strict=True)
    }


def _shapes_of(compiled: CompiledCausalLM, adapter: LoraAdapter) -> Shapes:
    """The shapes that a package has room for.

    Raises:
        LifecycleError: ``adapter`` is larger.
    """
    shapes: dict[str, tuple[int, int, int]] = {}
    bindings = compiled.body.graph.inputs
    for name, binding in bindings.items():
        if (path := supplied_path(name)) is not None:
            rank, in_features = binding.shape
            shapes[path] = (in_features, rank, bindings[supplied_names(path)[1]].shape[0])
    for path, update in adapter.updates.items():
        room = shapes[path][1] if path in shapes else 0
        if update.rank > room:
            raise LifecycleError(
                f"The adapter '{adapter.name}' has rank {update.rank} in '{path}', and {compiled.path} was compiled "
                f"for {f'rank {room}' if room else 'none'} there. Call compile() again: it is loaded now."
            )
    return shapes
