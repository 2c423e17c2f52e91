"""The options as keyword arguments, for editors and type checkers. Made of the option dataclasses by
``python -m option_types`` in ``tests/``; a test compares the two."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from QEfficient.generation_options import Streamer
from QEfficient.options import Precision, WeightFormat

if TYPE_CHECKING:
    from transformers import GenerationConfig


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
    """Memory optimisation strategy of the card's compiler (card only)."""
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
    """Context lengths to compute over while the prompt is short, ascending, one specialization each (card only)."""
    comp_ctx_lengths_decode: Sequence[int] | None
    """The same for decode steps (card only)."""
    num_speculative_tokens: int | None
    """Draft tokens that each step checks; it returns the logits of all of them (card only)."""
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


class SamplingArgs(TypedDict, total=False):
    """Of :class:`QEfficient.options.SamplingOptions`."""

    do_sample: bool | Sequence[bool | None] | None
    """Sample instead of taking the likeliest token. Default: on if temperature, top_k, top_p, min_p, typical_p,
    epsilon_cutoff or eta_cutoff is set."""
    temperature: float | Sequence[float | None] | None
    """Divides the logits; above 1 flatter, below 1 sharper."""
    top_k: int | Sequence[int | None] | None
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float | Sequence[float | None] | None
    """Keep the likeliest tokens that together reach this probability."""
    min_p: float | Sequence[float | None] | None
    """Keep tokens of at least this share of the likeliest one's probability."""
    typical_p: float | Sequence[float | None] | None
    """Keep tokens whose information is nearest to what is expected, until they reach this probability."""
    epsilon_cutoff: float | Sequence[float | None] | None
    """Keep tokens of at least this probability; 0 keeps all."""
    eta_cutoff: float | Sequence[float | None] | None
    """Keep tokens of at least this probability, or of less where many are about as likely; 0 keeps all."""
    repetition_penalty: float | Sequence[float | None] | None
    """Above 1 makes tokens that occurred before less likely."""
    seed: int | Sequence[int | None] | None
    """Seed of the random generator, for repeatable sampling."""


class GenerationArgs(SamplingArgs, total=False):
    """Of :class:`QEfficient.generation_options.GenerationOptions`."""

    max_new_tokens: int | Sequence[int | None] | None
    """Maximum number of new tokens; the same as generation_len. Default: max_length, else what fits into ctx_len."""
    max_length: int | Sequence[int | None] | None
    """Maximum number of tokens of prompt and answer together; max_new_tokens goes before it."""
    min_new_tokens: int | Sequence[int | None] | None
    """No end token before as many new tokens."""
    min_length: int | Sequence[int | None] | None
    """No end token before as many tokens of prompt and answer together; min_new_tokens goes before it."""
    eos_token_id: int | Sequence[int] | Sequence[int | Sequence[int] | None] | None
    """Tokens that end the answer, one or several."""
    stop_strings: str | Sequence[str] | Sequence[str | Sequence[str] | None] | None
    """Texts that end the answer, one or several; the answer ends with the token that completes one."""
    no_repeat_ngram_size: int | Sequence[int | None] | None
    """No as many tokens in a row occur twice in prompt and answer."""
    encoder_no_repeat_ngram_size: int | Sequence[int | None] | None
    """No as many tokens in a row of what the encoder reads, or of the prompt, occur in the answer."""
    bad_words_ids: Sequence[Sequence[int]] | Sequence[Sequence[Sequence[int]] | None] | None
    """Sequences of tokens that do not occur: a list of lists."""
    sequence_bias: (
        Mapping[tuple[int, ...], float]
        | Sequence[Any]
        | Sequence[Mapping[tuple[int, ...], float] | Sequence[Any] | None]
        | None
    )
    """Pairs of a sequence of tokens and a number, which is added to the score of its last token after the others."""
    suppress_tokens: int | Sequence[int] | Sequence[int | Sequence[int] | None] | None
    """Tokens that do not occur."""
    begin_suppress_tokens: int | Sequence[int] | Sequence[int | Sequence[int] | None] | None
    """Tokens that the answer does not begin with."""
    forced_bos_token_id: int | Sequence[int | None] | None
    """Token that the answer begins with, where its prompt is a single token, as that of a decoder."""
    forced_eos_token_id: int | Sequence[int] | Sequence[int | Sequence[int] | None] | None
    """Tokens of which one is the last where the answer reaches its maximum length."""
    exponential_decay_length_penalty: Sequence[float] | Sequence[Sequence[float] | None] | None
    """A number of new tokens, and a factor above 1: after as many, end tokens become exponentially likelier."""
    encoder_repetition_penalty: float | Sequence[float | None] | None
    """Above 1 makes tokens that the encoder reads, or those of the prompt, likelier."""
    presence_penalty: float | Sequence[float | None] | None
    """Subtracted from the score of each token that the answer has."""
    frequency_penalty: float | Sequence[float | None] | None
    """Subtracted from the score of each token as often as the answer has it."""
    logit_bias: (
        Mapping[int, float] | Mapping[str, float] | Sequence[Mapping[int, float] | Mapping[str, float] | None] | None
    )
    """Numbers that are added to scores, by token id: a dict."""
    logprobs: int | Sequence[int | None] | None
    """Return the logarithm of each token's probability, and those of as many likeliest tokens, 0 for none."""
    num_return_sequences: int | None
    """Answers to each prompt; more than one need sampling."""


class StreamArgs(GenerationArgs, total=False):
    """Of :class:`QEfficient.generation_options.StreamArguments`."""

    adapter: str | Sequence[str | None] | None
    """The name of the adapter to answer with, where the model has some. Default: the model without one."""
    generation_config: GenerationConfig | Mapping[str, Any] | str | os.PathLike[str] | None
    """A ``GenerationConfig`` of transformers, a dict with its entries, or the path of a ``generation_config.json`` or
    of its folder. It goes before the checkpoint's."""
    logits_processor: Callable[[Any, Any], Any] | Sequence[Callable[[Any, Any], Any]] | None
    """A function, or a list of them, from tokens ``[1, tokens]`` and scores ``[1, vocab]`` to scores."""
    stopping_criteria: Callable[[Any, Any], Any] | Sequence[Callable[[Any, Any], Any]] | None
    """A function, or a list of them, from tokens ``[1, tokens]`` and None to whether the answer ends."""


class GenerateArgs(StreamArgs, total=False):
    """Of :class:`QEfficient.generation_options.CallArguments`."""

    streamer: Streamer | None
    """A streamer of transformers, or another object with its put() and end(), for a single answer."""


class SpeechArgs(GenerateArgs, total=False):
    """Of :class:`QEfficient.generation.speech_rules.SpeechOptions`."""

    language: str | Sequence[str | None] | None
    """Of the audio: a code such as 'en', its token, or its name in English; None: the model says it."""
    task: str | Sequence[str | None] | None
    """'transcribe', or 'translate' into English; None: the checkpoint's."""
    return_timestamps: bool | Sequence[bool | None] | None
    """Whether the answer has tokens of times; None: the checkpoint's."""
    composer: str | Sequence[str | None] | None
    """Whom the notes of an answer are to be like; None: the model's usual one."""


class TextArgs(TypedDict, total=False):
    """Of :class:`QEfficient.generation.text_options.TextOptions`."""

    prompt_name: str | None
    """The folder's prompt to put before each text. Default: the one that the folder names as its default."""
    prompt: str | None
    """A prompt in place of the folder's."""
    batch_size: int | None
    """Texts per run. Default: as compiled, which a card keeps to."""
    truncation: bool | None
    """Cut texts that are too long: True, to what the model and the package take; False, never. Default: to the folder's
    maximum length, if it has one, with a warning."""
    show_progress_bar: bool
    """Show how many texts are done."""


class EncodeArgs(TextArgs, total=False):
    """Of :class:`QEfficient.generation.text_options.EncodeOptions`."""

    normalize_embeddings: bool
    """Scale each vector to length 1."""
    truncate_dim: int | None
    """Keep this many of the first features of each vector, before it is scaled."""
    convert_to_tensor: bool
    """Return a torch tensor instead of an array."""


class PredictArgs(TextArgs, total=False):
    """Of :class:`QEfficient.generation.text_options.PredictOptions`."""

    apply_softmax: bool
    """Turn the scores of several labels into shares of 1."""
    convert_to_tensor: bool
    """Return a torch tensor instead of an array."""


class RankArgs(TextArgs, total=False):
    """Of :class:`QEfficient.generation.text_options.RankOptions`."""

    top_k: int | None
    """Return this many of the best. Default: all."""
    return_documents: bool
    """Return each document beside its index and score."""
