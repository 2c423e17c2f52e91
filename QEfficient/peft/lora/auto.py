"""Causal LMs with many LoRA adapters at once, of which each prompt selects one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from QEfficient.errors import OptionError
from QEfficient.generation.adapters import AdapterRecord
from QEfficient.generation.results import CloudAI100ExecInfo
from QEfficient.generation.tasks.causal_lm import DecoderRecord
from QEfficient.options import CausalLMCompileOptions
from QEfficient.peft.adapted import AdaptedCausalLM
from QEfficient.targets import Target
from QEfficient.transformers.adapters.layers import with_selected
from QEfficient.transformers.models.causal_lm import CausalLMPlan
from QEfficient.transformers.tasks.adapter_inputs import with_lora_ids
from QEfficient.transformers.tasks.graph_spec import TaskGraph

AdapterNames = str | Sequence[str | None] | None
"""The adapter of all prompts, or of each; None: the active one."""


class QEFFAutoLoraModelForCausalLM(AdaptedCausalLM):
    """A causal LM with many LoRA adapters in one package, of any ranks and layers; each prompt selects one.

    :meth:`from_pretrained` loads the base model, :meth:`load_adapter` the adapters; what is loaded when :meth:`compile`
    is called is in the package.

    Args:
        model: a Hugging Face causal LM, already loaded.
        continuous_batching: upstream's switch; :meth:`compile` with ``full_batch_size`` needs no switch here.
        tokenizer: used by :meth:`generate` and put into the package.
    """

    def _adapters_changed(self) -> None:
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

    def generate(
        self,
        prompts: Any = None,
        texts: Any = None,
        device_id: Sequence[int] | None = None,
        runtime_ai100: bool = True,
        *,
        adapter: AdapterNames = None,
        prompt_to_adapter_mapping: Sequence[str | None] | None = None,
        runtime: str = "AI_100",
        **options: Any,
    ) -> CloudAI100ExecInfo:
        """Answer prompts, each with an adapter of its own. Arguments as of :meth:`QEFFAutoModelForCausalLM.generate`.

        Args:
            prompts: see there, as for those that are not listed here.
            texts: the prompts, where the first argument is a tokenizer.
            device_id: the cards to run on.
            runtime_ai100: only True is accepted.
            adapter: name of the adapter, for all prompts or for each; "base" is the model without one. None: the
                active adapter.
            prompt_to_adapter_mapping: the same, as upstream calls it.
            runtime: upstream's switch; only "AI_100" is accepted.
            options: the options of generation and sampling.

        Raises:
            OptionError: there is no such adapter in the package; or another option is impossible.
        """
        if runtime != "AI_100":
            raise OptionError(f"runtime={runtime!r}: to run without a card, compile with target='cpu'.")
        if adapter is not None and prompt_to_adapter_mapping is not None:
            raise OptionError("Give either adapter or prompt_to_adapter_mapping.")
        chosen = self._or_active(adapter if prompt_to_adapter_mapping is None else prompt_to_adapter_mapping)
        return super().generate(prompts, texts, device_id, runtime_ai100, adapter=chosen, **options)

    def stream(self, prompt: Any, **options: Any) -> Iterator[str]:
        """Yield the answer to one prompt as text, as it comes. Options are those of :meth:`generate`."""
        return super().stream(prompt, **{**options, "adapter": self._or_active(options.get("adapter"))})

    def _or_active(self, adapter: AdapterNames) -> AdapterNames:
        if isinstance(adapter, list | tuple):
            return [self._active if name is None else name for name in adapter]
        return self._active if adapter is None else adapter
