"""Causal LMs with many LoRA adapters at once, of which each prompt selects one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from QEfficient.errors import OptionError
from QEfficient.generation.adapters import AdapterRecord
from QEfficient.generation.tasks.causal_lm import DecoderRecord
from QEfficient.options import CausalLMCompileOptions
from QEfficient.peft.adapted import AdaptedCausalLM
from QEfficient.targets import Target
from QEfficient.transformers.adapters.layers import with_selected
from QEfficient.transformers.models.causal_lm import CausalLMPlan
from QEfficient.transformers.tasks.adapter_inputs import with_lora_ids
from QEfficient.transformers.tasks.graph_spec import TaskGraph


class QEFFAutoLoraModelForCausalLM(AdaptedCausalLM):
    """A causal LM with many LoRA adapters in one package, of any ranks and layers; each prompt selects one.

    :meth:`from_pretrained` loads the base model, :meth:`load_adapter` the adapters; what is loaded when :meth:`compile`
    is called is in the package. :meth:`generate` and :meth:`stream` take ``adapter``, a name for all prompts or one for
    each: "base" is the model without an adapter, None the active one. Upstream calls it ``prompt_to_adapter_mapping``.

    Args:
        model: a Hugging Face causal LM, already loaded.
        continuous_batching: upstream's switch; :meth:`compile` with ``full_batch_size`` needs no switch here.
        tokenizer: used by :meth:`generate` and put into the package.
    """

    def _before_adapters_change(self) -> None:
        self.close()
        self.qpc_path = self.onnx_path = None

    def _with_adapters(self, base: Any) -> Any:
        return with_selected(base, list(self._adapters.values()))

    def _plan(self, options: CausalLMCompileOptions, target: Target) -> CausalLMPlan:
        return super()._plan(options, target).replaced(has_lora_ids=bool(self._adapters))

    def _graphs(self, plan: CausalLMPlan) -> dict[str, TaskGraph]:
        graphs = super()._graphs(plan)
        return {name: with_lora_ids(graph) for name, graph in graphs.items()} if plan.has_lora_ids else graphs

    def _session(self, plan: CausalLMPlan, options: CausalLMCompileOptions, target: Target) -> DecoderRecord:
        adapters = tuple(AdapterRecord(name=each.name, digest=each.digest) for each in self._adapters.values())
        return replace(super()._session(plan, options, target), adapters=adapters)

    def _request_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """With the active adapter where a caller, in our words or upstream's, names none."""
        options = dict(options)
        runtime, mapping = options.pop("runtime", "AI_100"), options.pop("prompt_to_adapter_mapping", None)
        if runtime != "AI_100":
            raise OptionError(f"runtime={runtime!r}: to run without a card, compile with target='cpu'.")
        adapter = options.pop("adapter", None)
        if adapter is not None and mapping is not None:
            raise OptionError("Give either adapter or prompt_to_adapter_mapping.")
        chosen = adapter if mapping is None else mapping
        if isinstance(chosen, list | tuple):
            return {**options, "adapter": [self._active if name is None else name for name in chosen]}
        return {**options, "adapter": self._active if chosen is None else chosen}


QEffAutoLoraModelForCausalLM = QEFFAutoLoraModelForCausalLM
