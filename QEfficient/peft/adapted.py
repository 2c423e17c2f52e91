"""What the classes of models with adapters share: loading adapters, and folding one into the weights."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self

from QEfficient.base.modeling_qeff import PathLike
from QEfficient.contract import BASE
from QEfficient.errors import OptionError, nearest
from QEfficient.store.artifacts import update_body
from QEfficient.transformers.adapters.adapter import LoraAdapter, read_adapter, resolve_adapter
from QEfficient.transformers.adapters.config import LoraConfig
from QEfficient.transformers.adapters.layers import check_fits, merged
from QEfficient.transformers.models.causal_lm import QEFFAutoModelForCausalLM

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from QEfficient.generation.prompts import Prompts
    from QEfficient.generation.tasks.causal_lm import CompiledCausalLM
    from QEfficient.verify.parity import ParityReport

HubValue = str | bool | os.PathLike[str] | None
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")
"""Where on the Hub an adapter is looked for."""


class AdaptedCausalLM(QEFFAutoModelForCausalLM):
    """A causal LM with LoRA adapters, whose weights stay in their files until they are needed."""

    load_arguments = ("continuous_batching",)

    def __init__(
        self,
        model: PreTrainedModel,
        continuous_batching: bool = False,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        if hasattr(model, "peft_config"):
            raise OptionError(
                f"A {type(model).__name__} of PEFT is not taken as it is in memory: save it with save_pretrained() and "
                "load the base model and the adapter's folder."
            )
        self._begin()
        super().__init__(model, continuous_batching, tokenizer=tokenizer)

    def _begin(self) -> None:
        self._adapters: dict[str, LoraAdapter] = {}
        self._adapted: tuple[list[int], Any] | None = None
        self._active: str | None = None

    @classmethod
    def _without_model(cls) -> Self:
        model = super()._without_model()
        model._begin()
        return model

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters, in the order of their numbers; of a model opened from a package, the package's."""
        if self._model is None:
            names: tuple[str, ...] = self._open().record.adapter_names
            return names
        return tuple(self._adapters)

    def load_adapter(self, adapter_model_id: PathLike, adapter_name: str, **hub_options: HubValue) -> int:
        """Load an adapter beside those that are there.

        Args:
            adapter_model_id: a folder with ``adapter_config.json`` and ``adapter_model.safetensors``, or a repository
                of the Hub with them.
            adapter_name: what it is called from now on.
            hub_options: ``revision``, ``cache_dir``, ``token`` and ``local_files_only`` of the repository.

        Returns:
            Its number, from 1 on; 0 is the base model.

        Raises:
            OptionError: the name is taken, or is none.
            LifecycleError: requests are running on a package that has to be closed.
            UnsafeCheckpoint: its weights are pickled, or a file is a link out of the folder.
            CheckpointNotFound: there is no such adapter.
            CorruptCheckpoint: a file is damaged, or the adapter is for a model of other sizes.
            UnsupportedModel: it is no LoRA adapter, or uses something that is not read; names it.
        """
        if unknown := sorted(set(hub_options) - {*HUB_OPTIONS}):
            raise OptionError(f"load_adapter() has no option '{unknown[0]}'.{nearest(unknown[0], HUB_OPTIONS)}")
        self._check_new(adapter_name)
        adapter = read_adapter(adapter_name, resolve_adapter(adapter_model_id, **hub_options))
        check_fits(self._base(), adapter)
        self._before_adapters_change()
        self._adapters[adapter_name] = adapter
        self._adapted = None
        return len(self._adapters)

    def _check_new(self, name: object) -> None:
        if not isinstance(name, str) or not name or not name.isprintable():
            raise OptionError(f"An adapter's name is text, got {name!r}.")
        if name == BASE:
            raise OptionError(f"'{BASE}' is the model without an adapter: give the adapter another name.")
        if name in self._adapters:
            raise OptionError(f"There is an adapter '{name}' already: unload_adapter('{name}') first.")

    def unload_adapter(self, adapter_name: str) -> None:
        """Forget an adapter; those after it move up by one number.

        Raises:
            OptionError: there is none of this name.
            LifecycleError: requests are running on the package that has it.
        """
        self._adapter(adapter_name)
        self._before_adapters_change()
        del self._adapters[adapter_name]
        if self._active == adapter_name:
            self._active = None
        self._adapted = None

    def get_adapter_config(self, adapter_name: str) -> LoraConfig:
        """Rank, scale and base model of an adapter."""
        return self._adapter(adapter_name).config

    def merge(self, adapter_name: str) -> QEFFAutoModelForCausalLM:
        """A model without adapters, one of these folded into its weights, which are read when they are needed.

        Raises:
            OptionError: there is no adapter of this name.
        """
        model = merged(self._base(), self._adapter(adapter_name))
        return QEFFAutoModelForCausalLM(model, self.continuous_batching, tokenizer=self.tokenizer)

    def _adapter(self, name: str) -> LoraAdapter:
        self._base()
        if name not in self._adapters:
            raise self._unknown(name)
        return self._adapters[name]

    def _unknown(self, name: object) -> OptionError:
        names = self.adapters
        return OptionError(
            f"There is no adapter {name!r}.{nearest(str(name), names)} Loaded are {', '.join(names) or 'none'}."
        )

    def _base(self) -> Any:
        """The Hugging Face model without adapters."""
        return super()._loaded()

    def _loaded(self) -> Any:
        """The model that is lowered: the base model with the places of its adapters, and with its very weights."""
        base = self._base()
        if not self._adapters:
            return base
        # A parameter that was read, or replaced by the user, is another one; the copy has the old ones, so that no new
        # one gets the id of one of them.
        state = [id(base), *map(id, base.parameters())]
        if self._adapted is None or self._adapted[0] != state:
            self._adapted = (state, self._with_adapters(base))
        return self._adapted[1]

    def _with_adapters(self, base: Any) -> Any:
        """A copy of the base model with the places of the adapters."""
        raise NotImplementedError

    def _before_adapters_change(self) -> None:
        """Called before an adapter is loaded or unloaded, which an error prevents."""

    # Selecting.

    @property
    def active_adapter(self) -> str | None:
        """The adapter of prompts that name none; None: the base model."""
        return self._active

    def set_adapter(self, adapter_name: str) -> None:
        """Answer prompts that name no adapter with this one from now on; nothing is compiled again.

        Args:
            adapter_name: a loaded adapter, or "base" for the model without one.

        Raises:
            OptionError: there is none of this name.
        """
        if adapter_name != BASE and adapter_name not in self.adapters:
            raise self._unknown(adapter_name)
        self._active = None if adapter_name == BASE else adapter_name

    def verify(
        self,
        prompts: Prompts,
        *,
        generation_len: int = 32,
        node_precision_out: str | os.PathLike[str] | None = None,
        adapter: str | None = None,
    ) -> ParityReport:
        """As :meth:`QEFFAutoModelForCausalLM.verify`, with one adapter. The model's numerics are not examined.

        Args:
            prompts: as in :meth:`generate`.
            generation_len: tokens to compare for each prompt.
            node_precision_out: must be None.
            adapter: name of the adapter; None: the active one.

        Raises:
            OptionError: there is no such adapter, or ``node_precision_out`` is set.
        """
        from QEfficient.verify.parity import compare

        if node_precision_out is not None:
            raise OptionError("node_precision_out: verify a merged model for it, with merge(adapter_name).")
        name = self._active if adapter is None else adapter
        reference = self.model if name in (None, BASE) else self.merge(str(name)).model
        compiled, selected = self._opened_for(name)
        report = compare(reference, compiled, compiled.encode(prompts, self.tokenizer), generation_len, selected)
        compiled.artifact = update_body(compiled.artifact, {"parity": report.to_dict()})
        return report

    def _opened_for(self, adapter: str | None) -> tuple[CompiledCausalLM, str | None]:
        """The open package ready for prompts with ``adapter``, and the adapter that these prompts have to name."""
        return self._open(), adapter
