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
    """Cards to slice the model over (card only)."""
    num_cores: int
    """Cores of a card to use (card only)."""
    mxfp6_matmul: bool
    """Store matmul weights in MXFP6 (card only)."""
    aic_enable_depth_first: bool
    """Let the card's compiler schedule depth first (card only)."""
    mos: int | None
    """Memory optimisation strategy of the card's compiler; None and -1: its choice (card only)."""
    allow_mxint8_mdp_io: bool
    """Send what one card passes to the next in MXINT8 (card only)."""
    mdp_num_partitions: int
    """Stages of a pipeline, each on separate cards (card only)."""
    mdp_load_partition_config: str | os.PathLike[str] | None
    """A partition file to use instead of the one from num_devices and mdp_num_partitions (card only)."""
    node_precision_info: str | os.PathLike[str] | None
    """A file that names the nodes to keep in fp32 or fp16, as `qefficient verify` writes it (card only)."""
    aic_hw_version: str | None
    """The chip to compile for, such as 'ai100'; None: that of the card in this machine, else 'ai100' (card only)."""
    use_onnx_subfunctions: bool
    """Write the repeated layers as one function, which the compiler then compiles once (card only)."""
    enable_qnn: bool
    """Compile through the QNN SDK instead of qaic-compile (card only)."""
    qnn_config: str | os.PathLike[str] | None
    """A JSON file with extra settings for QNN (card only; needs enable_qnn)."""
    dry_run: bool
    """Write every file that the compiler reads and show the command, without running it (card only)."""
    weight_format: WeightFormat | None
    """'int8' or 'int4' weights on cpu; None keeps the checkpoint's dtype."""
    precision: Precision | None
    """Number format of the computation: 'fp32' for exact results. None: on a card fp16; on cpu bf16 where the processor
    has it natively, else fp32, with the KV cache and the inputs of quantized products in 8 bits."""
    num_threads: int | None
    """Threads on cpu; None: one per physical core."""
    compiler_options: Mapping[str, Any]
    """Raw options for the target's compiler, passed on as they are. On cpu: properties of OpenVINO that say how to
    compute; those about the machine, such as CACHE_DIR, are passed when the package is opened."""


class CausalLMCompileArgs(CompileArgs, total=False):
    """Of :class:`QEfficient.options.CausalLMCompileOptions`."""

    prefill_seq_len: int | None
    """Prompt tokens that one step takes; longer prompts go in chunks. Default: 32 on a card, 512 on cpu."""
    ctx_len: int
    """Longest context, prompt and answer together, in tokens. Default: 128 on a card; 4096 on cpu, or what the model
    has positions for, less where the KV cache would take a quarter of the memory or each step reads all of the
    context."""
    full_batch_size: int | None
    """Slots for continuous batching: sequences that run at once, at independent positions."""
    kv_cache_batch_size: int | None
    """Rows of state, to keep more than full_batch_size (prefix caching; card only)."""
    mxint8_kv_cache: bool
    """Keep the KV cache in MXINT8 (card only)."""
    prefill_only: bool | None
    """True: only the prefill step; False: only the decode step; None: both (card only)."""
    comp_ctx_lengths_prefill: Sequence[int] | None
    """Context lengths to compute over while the prompt is short, ascending, one specialization each; ctx_len is the
    last, whether it is listed or not (card only)."""
    comp_ctx_lengths_decode: Sequence[int] | None
    """The same for decode steps (card only)."""
    num_speculative_tokens: int | Sequence[int] | None
    """Draft tokens that each step checks; it returns the logits of all of them. Several numbers make a specialization
    each; 0 is a step without drafts (card only)."""
    lowering: Literal["retained", "paged"] | None
    """Force one of the target's lowerings; None: the fastest that can express the model."""


class ImageTextToTextCompileArgs(CausalLMCompileArgs, total=False):
    """Of :class:`QEfficient.options.ImageTextToTextCompileOptions`."""

    img_size: int | Sequence[int] | None
    """Sides of the square images that a card's encoder takes, in pixels, where the processor does not settle them. No
    effect on cpu, which takes any that the model does."""
    audio_seconds: float | Sequence[float] | None
    """Seconds of the clips that a card's encoder takes, where the processor does not settle them. Default: 30. No
    effect on cpu."""
    vision_size: int | None
    """Rows of features that a step of the language model takes. Default: as many as tokens of a prompt in one step."""
    max_num_images: int
    """Images of a prompt at most, in models that attend to images in cross-attention layers, such as Llama 3.2 Vision:
    they keep as many images' keys and values. Others take as many images as ctx_len has room for."""


class EncoderCompileArgs(CompileArgs, total=False):
    """Of :class:`QEfficient.options.EncoderCompileOptions`."""

    seq_len: int | Sequence[int]
    """Compiled lengths in tokens, one or several; an input takes the smallest that fits."""


class CTCCompileArgs(EncoderCompileArgs, total=False):
    """Of :class:`QEfficient.options.CTCCompileOptions`."""


class EncoderDecoderCompileArgs(CompileArgs, total=False):
    """Of :class:`QEfficient.options.EncoderDecoderCompileOptions`."""

    ctx_len: int
    """Longest answer in tokens, including its start token."""
    full_batch_size: int | None
    """Slots for continuous batching: answers that run at once, at independent positions. The encoder reads one input at
    a time."""
    mxint8_kv_cache: bool
    """Keep keys and values, including those of the encoder's input, in MXINT8 (card only)."""


class Seq2SeqLMCompileArgs(EncoderDecoderCompileArgs, total=False):
    """Of :class:`QEfficient.options.Seq2SeqLMCompileOptions`."""

    encoder_ctx_len: int
    """Longest text that the encoder reads, in tokens."""


class SpeechSeq2SeqCompileArgs(EncoderDecoderCompileArgs, total=False):
    """Of :class:`QEfficient.options.SpeechSeq2SeqCompileOptions`."""

    encoder_ctx_len: int | None
    """Longest audio, in states of the encoder. None: 30 seconds, or what the model reads, if that is of one length."""


class Vision2SeqCompileArgs(EncoderDecoderCompileArgs, total=False):
    """Of :class:`QEfficient.options.Vision2SeqCompileOptions`."""

    encoder_ctx_len: int | None
    """Longest prompt, in states of the encoder. None: those of an image, and of 128 tokens where the encoder reads text
    too."""
    img_size: int | Sequence[int] | None
    """Sides of the square images that a card's encoder takes, in pixels, where the processor does not settle them. No
    effect on cpu, which takes any that the model does."""
