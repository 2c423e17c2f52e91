"""The settings that scripts pass as ``qaic_config``: a dict, whose keys are checked here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from QEfficient.errors import OptionError, UnsupportedModel
from QEfficient.no_effect import remarks_of
from QEfficient.options import Options

_IN_BLOCKS = "attention is computed whole; its results are those of attention in blocks"
_NO_EFFECT = {
    "enable_blocking": _IN_BLOCKS,
    "blocking_mode": _IN_BLOCKS,
    "num_kv_blocks": _IN_BLOCKS,
    "num_q_blocks": _IN_BLOCKS,
    "head_block_size": _IN_BLOCKS,
    "num_batch_blocks": _IN_BLOCKS,
    "skip_kv": _IN_BLOCKS,
    "replicate_kv_heads": "heads of keys and values are not repeated; the results are the same",
    "num_kv_heads_repeat": "heads of keys and values are not repeated; the results are the same",
    "mla_absorption": "latent attention keeps latents",
}
_ON_THE_HOST = (
    "the card does not sample here yet: generate(do_sample=True, temperature=..., top_k=..., top_p=..., "
    "repetition_penalty=...) samples on the host"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class QaicConfig(Options):
    """Settings of a causal LM's graph, by upstream's keys."""

    speculative_model_type: str | None = None
    """'target': the model checks drafts, as many as compile() is told by num_speculative_tokens."""
    ccl_enabled: bool = False
    """Compile for several context lengths; those that compile() is told, else chosen by ctx_len."""
    comp_ctx_lengths_prefill: tuple[int, ...] | None = None
    """Default of the option of compile()."""
    comp_ctx_lengths_decode: tuple[int, ...] | None = None
    """Default of the option of compile()."""
    ctx_len: int | None = None
    """The maximum of these lengths; compile() says it."""
    include_sampler: bool = False
    """Sample on the card: not here yet."""
    return_pdfs: bool = False
    """Return probabilities from it: not here yet."""
    include_guided_decoding: bool = False
    """Mask tokens on the card: not here yet."""
    max_top_k_ids: int = 512
    """Tokens that the card's sampler looks at."""
    enable_blocking: bool = False
    """Compute attention in blocks: no effect."""
    blocking_mode: str | None = None
    """No effect."""
    num_kv_blocks: int | None = None
    """No effect."""
    num_q_blocks: int | None = None
    """No effect."""
    head_block_size: int | None = None
    """No effect."""
    num_batch_blocks: int | None = None
    """No effect."""
    skip_kv: bool = False
    """No effect."""
    replicate_kv_heads: bool = False
    """No effect."""
    num_kv_heads_repeat: int | None = None
    """No effect."""
    mla_absorption: Mapping[str, Any] | None = None
    """No effect."""
    pretrained_model_name_or_path: str | None = None
    """Where the model was loaded from; upstream writes it itself."""

    @classmethod
    def read(cls, config: object) -> QaicConfig:
        """
        Raises:
            OptionError: it is no dict, or a key or a value is wrong.
            UnsupportedModel: a kind of speculative decoding that is not here.
        """
        if config is None or isinstance(config, QaicConfig):
            return config or cls()
        if not isinstance(config, Mapping):
            raise OptionError(f"qaic_config must be a dict, got {config!r}.")
        try:
            return cls.parse(config)
        except OptionError as error:
            raise OptionError(f"qaic_config: {error}") from error

    def __post_init__(self) -> None:
        role = self.speculative_model_type
        if role not in (None, "target"):
            raise UnsupportedModel(
                f"speculative_model_type={role!r} is not here: 'target' is, whose compile() "
                "takes num_speculative_tokens."
            )
        for name in ("include_sampler", "return_pdfs", "include_guided_decoding"):
            if getattr(self, name):
                raise OptionError(f"{name}=True: {_ON_THE_HOST}.")

    @property
    def remarks(self) -> list[str]:
        """What is set and has no effect, and why."""
        defaults = {item.name: item.default for item in fields(self)}
        ignored = {name: why for name, why in _NO_EFFECT.items() if getattr(self, name) != defaults[name]}
        return [f"qaic_config: {remark}" for remark in remarks_of(ignored)]

    def compile_defaults(self, ctx_len: int | None) -> dict[str, Any]:
        """Values of options of ``compile`` that the caller leaves out.

        Args:
            ctx_len: as the caller passes it.
        """
        listed = {name: getattr(self, name) for name in ("comp_ctx_lengths_prefill", "comp_ctx_lengths_decode")}
        values = {name: lengths for name, lengths in listed.items() if lengths is not None}
        if self.ctx_len is not None and values:
            values["ctx_len"] = self.ctx_len
        if self.ccl_enabled and not values and ctx_len is not None:
            values = dict.fromkeys(listed, automatic_ctx_lengths(ctx_len))
        return values


def automatic_ctx_lengths(ctx_len: int) -> tuple[int, ...]:
    """Context lengths to compile for: ``ctx_len``, and up to four shorter ones, each twice the one before."""
    shortest = 4096 if ctx_len <= 32768 else 8192 if ctx_len <= 65536 else 16384
    shorter = [shortest << doublings for doublings in range(4) if shortest << doublings < ctx_len]
    return (*shorter, ctx_len)
