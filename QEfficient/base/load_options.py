"""The keywords of ``from_pretrained``: for the class, for the checkpoint, changes of its config, and those of other
libraries that change nothing here."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from QEfficient.errors import OptionError
from QEfficient.no_effect import remarks_of

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig

    from QEfficient.base.modeling_qeff import PathLike

logger = logging.getLogger(__name__)

_STREAMED = "weights stay in their files until an export streams them"
_ONE_KIND = "only safetensors and GGUF files are read"
_NO_EFFECT: dict[str, tuple[tuple[object, ...], str]] = {
    "add_pooling_layer": ((None, False), "outputs are hidden states, or what pooling= makes of them"),
    "attn_implementation": ((None,), "attention is replaced by that of the compiled graph"),
    "code_revision": ((None,), "code is that of the checkpoint's revision"),
    "device_map": ((None,), _STREAMED),
    "dynamo": ((False,), "models are always exported in this way"),
    "enable_proxy": ((False,), "graphs keep their embedding and head"),
    "experts_implementation": ((None,), "experts are replaced by those of the compiled graph"),
    "full_batch_size": ((None,), "compile() takes it"),
    "kv_offload": ((None, True, False), "a language model is one graph"),
    "layerwise": ((False,), _STREAMED),
    "low_cpu_mem_usage": ((None, True), _STREAMED),
    "max_seq_len_cached": ((None,), "tables of positions are made for ctx_len"),
    "offload_pt_weights": ((None, True, False), _STREAMED),
    "qaic_config": ((None,), "it is for models that generate text token by token"),
    "resume_download": ((None, True, False), "downloads are always resumed"),
    "use_safetensors": ((None, True), _ONE_KIND),
    "weight_free": ((False,), _STREAMED),
}
"""Name -> values that mean what happens anyway, and why others change nothing."""


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Keywords of one call of ``from_pretrained``, sorted."""

    for_class: dict[str, Any]
    """Arguments of the class."""
    for_checkpoint: dict[str, Any]
    """See :data:`QEfficient.transformers.checkpoint.load.LOAD_OPTIONS`."""
    trust_remote_code: bool
    config: PretrainedConfig | None
    """The caller's, in place of the checkpoint's."""
    changes: dict[str, Any]
    """Values of the config that the caller sets."""

    @classmethod
    def read(cls, class_arguments: Sequence[str], trust_remote_code: bool, keywords: Mapping[str, Any]) -> LoadOptions:
        """Sort a caller's keywords; says once what has no effect.

        Raises:
            OptionError: one has a wrong type.
        """
        from QEfficient.transformers.checkpoint import load as checkpoint

        for_class = {name: keywords[name] for name in class_arguments if name in keywords}
        for_checkpoint = {name: value for name, value in keywords.items() if name in checkpoint.LOAD_OPTIONS}
        checkpoint.check_options({**for_checkpoint, "trust_remote_code": trust_remote_code})
        others = {name: value for name, value in keywords.items() if name not in for_class | for_checkpoint}
        config = others.pop("config", None)
        if config is not None and not hasattr(config, "to_dict"):
            raise OptionError(f"config must be one of transformers' configs, got {config!r}.")
        return cls(
            for_class=for_class,
            for_checkpoint=for_checkpoint,
            trust_remote_code=trust_remote_code,
            config=config,
            changes=_without_effectless(others),
        )

    @property
    def dtype(self) -> dict[str, Any]:
        """The type of the weights, if the caller says it."""
        dtype = self.for_checkpoint.get("dtype", self.for_checkpoint.get("torch_dtype"))
        return {} if dtype is None else {"dtype": dtype}

    def check_changes(self, model_name: PathLike) -> None:
        """Refuse a keyword that the checkpoint's config does not have, before its weights are downloaded."""
        from QEfficient.transformers.checkpoint.load import resolve

        if self.changes:
            self.changed_config(resolve(model_name, config_only=True, **self.for_checkpoint))

    def changed_config(self, folder: Path) -> dict[str, Any]:
        """The config to load with, if the caller changes it.

        Raises:
            OptionError: a keyword is none of ours, and none of the config's values.
        """
        from QEfficient.transformers.checkpoint.config_changes import changed_config

        if self.config is None and not self.changes:
            return {}
        return {"config": changed_config(folder, self.trust_remote_code, self.config, self.changes)}


def _without_effectless(keywords: dict[str, Any]) -> dict[str, Any]:
    """``keywords`` without those that change nothing, which are reported."""
    ignored: dict[str, str] = {}
    for name in [name for name in keywords if name in _NO_EFFECT]:
        usual, why = _NO_EFFECT[name]
        if keywords.pop(name) not in usual:
            ignored[name] = why
    for remark in remarks_of(ignored):
        logger.warning(remark)
    return keywords
