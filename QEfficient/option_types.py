"""The options as keyword arguments, for editors and type checkers. Made of :mod:`QEfficient.options` by
``python -m option_types`` in ``tests/``; a test compares the two."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from QEfficient.options import Precision, WeightFormat


class CompileArgs(TypedDict, total=False):
    """Of :class:`QEfficient.options.CompileOptions`."""

    target: str | None
    """Where to run: 'cloud-ai-100', its simulator 'cloud-ai-100-sim', or 'cpu'. Default: the QEFF_TARGET environment
    variable, else the card if its SDK is on this machine, else 'cpu'."""
    batch_size: int
    """Rows per run."""
    num_devices: int
    """Number of cards to split each layer over (card only)."""
    num_cores: int
    """Number of cores to use on each card (card only)."""
    mxfp6_matmul: bool
    """Store matmul weights in MXFP6 (card only)."""
    aic_enable_depth_first: bool
    """Let the card's compiler schedule depth first (card only)."""
    mos: int | None
    """Memory optimisation strategy of the card's compiler (card only)."""
    allow_mxint8_mdp_io: bool
    """Send activations between cards in MXINT8 (card only)."""
    mdp_num_partitions: int
    """Number of pipeline stages, each on separate cards (card only)."""
    mdp_load_partition_config: str | os.PathLike[str] | None
    """A partition file to use instead of the one from num_devices and mdp_num_partitions (card only)."""
    node_precision_info: str | os.PathLike[str] | None
    """A file that names the nodes to keep in fp32 or fp16, as `qefficient verify` writes it (card only)."""
    aic_hw_version: str | None
    """Chip to compile for, such as 'ai100'. Default: the installed card's, else 'ai100' (card only)."""
    use_onnx_subfunctions: bool
    """Export repeated layers as one function, which the compiler compiles once (card only)."""
    enable_qnn: bool
    """Compile through the QNN SDK instead of qaic-compile (card only)."""
    qnn_config: str | os.PathLike[str] | None
    """A JSON file with extra settings for QNN (card only; needs enable_qnn)."""
    dry_run: bool
    """Write every file that the compiler reads and show the command, without running it (card only)."""
    weight_format: WeightFormat | None
    """'int8' or 'int4' weights on cpu. Default: the checkpoint's dtype."""
    precision: Precision | None
    """Number format of the computation: 'fp32' for exact results. Default: fp16 on a card; on cpu bf16 if the processor
    supports it natively, else fp32, with an 8-bit KV cache and 8-bit inputs to quantized matmuls."""
    num_threads: int | None
    """Threads on cpu. Default: one per physical core."""
    compiler_options: Mapping[str, Any]
    """Raw options for the target's compiler, passed through unchanged. On cpu: OpenVINO properties that control the
    computation; properties of the machine, such as CACHE_DIR, are set when the package is opened."""


class CausalLMCompileArgs(CompileArgs, total=False):
    """Of :class:`QEfficient.options.CausalLMCompileOptions`."""

    prefill_seq_len: int | None
    """Prompt tokens per step; longer prompts are processed in chunks. Default: 32 on a card, 512 on cpu."""
    ctx_len: int
    """Maximum context in tokens, prompt and answer together. Default: 128 on a card; on cpu 4096, or as many as the
    model has positions for, and fewer if the KV cache would take more than a quarter of the memory or each step reads
    the whole context."""
    full_batch_size: int | None
    """Slots for continuous batching: sequences that run at once, at independent positions."""
    kv_cache_batch_size: int | None
    """Rows of KV cache, if more than full_batch_size (for prefix caching; card only)."""
    mxint8_kv_cache: bool
    """Keep the KV cache in MXINT8 (card only)."""
    prefill_only: bool | None
    """True: only the prefill step; False: only the decode step; None: both (card only)."""
    comp_ctx_lengths_prefill: Sequence[int] | None
    """Shorter context lengths to compile prefill for, in ascending order; each step uses the smallest that fits (card
    only)."""
    comp_ctx_lengths_decode: Sequence[int] | None
    """The same for decode (card only)."""
    num_speculative_tokens: int | None
    """Draft tokens verified per step, which returns the logits of all of them (card only)."""
    lowering: Literal["retained", "paged"] | None
    """Force one of the target's lowerings. Default: the fastest that supports the model."""


class ImageTextToTextCompileArgs(CausalLMCompileArgs, total=False):
    """Of :class:`QEfficient.options.ImageTextToTextCompileOptions`."""

    img_size: int | Sequence[int] | None
    """Size in pixels of the square images that the encoder takes on a card, if the processor does not fix it. No effect
    on cpu, which takes every size that the model does."""
    audio_seconds: float | Sequence[float] | None
    """Length in seconds of the clips that the encoder takes on a card, if the processor does not fix it. Default: 30.
    No effect on cpu."""
    vision_size: int | None
    """Rows of features per step of the language model. Default: the number of prompt tokens per step."""
    max_num_images: int
    """Maximum number of images per prompt, for models with cross-attention to images, such as Llama 3.2 Vision, which
    keep keys and values for this many. Other models take as many images as fit into ctx_len."""


class EncoderCompileArgs(CompileArgs, total=False):
    """Of :class:`QEfficient.options.EncoderCompileOptions`."""

    seq_len: int | Sequence[int]
    """Compiled lengths in tokens, one or several; each input runs at the smallest that fits."""


class CTCCompileArgs(EncoderCompileArgs, total=False):
    """Of :class:`QEfficient.options.CTCCompileOptions`."""


class EncoderDecoderCompileArgs(CompileArgs, total=False):
    """Of :class:`QEfficient.options.EncoderDecoderCompileOptions`."""

    ctx_len: int
    """Maximum length of an answer in tokens, including its start token."""
    full_batch_size: int | None
    """Slots for continuous batching: answers that run at once, at independent positions. The encoder reads one input at
    a time."""
    mxint8_kv_cache: bool
    """Keep keys and values, including those of the encoder's input, in MXINT8 (card only)."""


class Seq2SeqLMCompileArgs(EncoderDecoderCompileArgs, total=False):
    """Of :class:`QEfficient.options.Seq2SeqLMCompileOptions`."""

    encoder_ctx_len: int
    """Maximum length of the encoder's input, in tokens."""


class SpeechSeq2SeqCompileArgs(EncoderDecoderCompileArgs, total=False):
    """Of :class:`QEfficient.options.SpeechSeq2SeqCompileOptions`."""

    encoder_ctx_len: int | None
    """Maximum length of the audio, in encoder states. Default: 30 seconds, or the model's input length if that is
    fixed."""


class Vision2SeqCompileArgs(EncoderDecoderCompileArgs, total=False):
    """Of :class:`QEfficient.options.Vision2SeqCompileOptions`."""

    encoder_ctx_len: int | None
    """Maximum length of the prompt, in encoder states. Default: one image, plus 128 tokens if the encoder also reads
    text."""
    img_size: int | Sequence[int] | None
    """Size in pixels of the square images that the encoder takes on a card, if the processor does not fix it. No effect
    on cpu, which takes every size that the model does."""
