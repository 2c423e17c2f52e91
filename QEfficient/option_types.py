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
    """Number of cards to split each layer over (card only)."""
    num_cores: int
    """Number of cores to use on each card (card only)."""
    mxfp6_matmul: bool
    """Store matmul weights in MXFP6 (card only)."""
    aic_enable_depth_first: bool
    """Let the card's compiler schedule depth first (card only)."""
    mos: int | None
    """Memory optimisation strategy of the card's compiler; None and -1: its choice (card only)."""
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
    """Shorter context lengths to compile prefill for, in ascending order; each step uses the smallest that fits.
    ctx_len is always among them (card only)."""
    comp_ctx_lengths_decode: Sequence[int] | None
    """The same for decode (card only)."""
    num_speculative_tokens: int | Sequence[int] | None
    """Draft tokens verified per step, which returns the logits of all of them; several numbers make a specialization
    each, and 0 is a step without drafts (card only)."""
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


class SamplingArgs(TypedDict, total=False):
    """Of :class:`QEfficient.options.SamplingOptions`."""

    do_sample: bool | Sequence[bool | None] | None
    """Sample instead of taking the most likely token. Default: on if temperature, top_k, top_p, min_p, typical_p,
    epsilon_cutoff or eta_cutoff is set."""
    temperature: float | Sequence[float | None] | None
    """Divides the logits: above 1 flattens the distribution, below 1 sharpens it."""
    top_k: int | Sequence[int | None] | None
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float | Sequence[float | None] | None
    """Keep the most likely tokens whose probabilities add up to this."""
    min_p: float | Sequence[float | None] | None
    """Keep tokens with at least this fraction of the most likely token's probability."""
    typical_p: float | Sequence[float | None] | None
    """Keep the tokens whose information content is closest to the expected one, until their probabilities add up to
    this."""
    epsilon_cutoff: float | Sequence[float | None] | None
    """Keep tokens with at least this probability; 0 keeps all."""
    eta_cutoff: float | Sequence[float | None] | None
    """Keep tokens with at least this probability, or less if the distribution is flat; 0 keeps all."""
    repetition_penalty: float | Sequence[float | None] | None
    """Above 1, makes tokens that already occurred less likely."""
    seed: int | Sequence[int | None] | None
    """Seed of the random generator, for repeatable sampling."""


class GenerationArgs(SamplingArgs, total=False):
    """Of :class:`QEfficient.generation_options.GenerationOptions`."""

    max_new_tokens: int | Sequence[int | None] | None
    """Maximum number of new tokens; the same as generation_len. Default: max_length, else what fits into ctx_len."""
    max_length: int | Sequence[int | None] | None
    """Maximum number of tokens, prompt and answer together; max_new_tokens takes precedence."""
    min_new_tokens: int | Sequence[int | None] | None
    """Minimum number of new tokens before an end token is allowed."""
    min_length: int | Sequence[int | None] | None
    """Minimum number of tokens, prompt and answer together, before an end token is allowed; min_new_tokens takes
    precedence."""
    eos_token_id: int | Sequence[int] | Sequence[int | Sequence[int] | None] | None
    """One or several tokens that end the answer."""
    stop_strings: str | Sequence[str] | Sequence[str | Sequence[str] | None] | None
    """One or several strings that end the answer, which includes the token that completes the string."""
    no_repeat_ngram_size: int | Sequence[int | None] | None
    """No sequence of this many tokens occurs twice in prompt and answer."""
    encoder_no_repeat_ngram_size: int | Sequence[int | None] | None
    """No sequence of this many tokens from the encoder's input, or from the prompt, occurs in the answer."""
    bad_words_ids: Sequence[Sequence[int]] | Sequence[Sequence[Sequence[int]] | None] | None
    """Token sequences that are not generated: a list of lists."""
    sequence_bias: (
        Mapping[tuple[int, ...], float]
        | Sequence[Any]
        | Sequence[Mapping[tuple[int, ...], float] | Sequence[Any] | None]
        | None
    )
    """Pairs of a token sequence and a number, which is added to the score of the last token of the sequence after the
    others."""
    suppress_tokens: int | Sequence[int] | Sequence[int | Sequence[int] | None] | None
    """Tokens that are not generated."""
    begin_suppress_tokens: int | Sequence[int] | Sequence[int | Sequence[int] | None] | None
    """Tokens that the answer does not start with."""
    forced_bos_token_id: int | Sequence[int | None] | None
    """Token that the answer starts with, if the prompt is a single token, as for an encoder-decoder model."""
    forced_eos_token_id: int | Sequence[int] | Sequence[int | Sequence[int] | None] | None
    """Tokens one of which ends the answer when it reaches its maximum length."""
    exponential_decay_length_penalty: Sequence[float] | Sequence[Sequence[float] | None] | None
    """A number of new tokens, and a factor above 1: after that many tokens, end tokens become exponentially more
    likely."""
    encoder_repetition_penalty: float | Sequence[float | None] | None
    """Above 1, makes tokens of the encoder's input, or of the prompt, more likely."""
    presence_penalty: float | Sequence[float | None] | None
    """Subtracted from the score of each token that the answer already contains."""
    frequency_penalty: float | Sequence[float | None] | None
    """Subtracted from the score of each token once per occurrence in the answer."""
    logit_bias: (
        Mapping[int, float] | Mapping[str, float] | Sequence[Mapping[int, float] | Mapping[str, float] | None] | None
    )
    """Numbers to add to scores: a dict from token id to number."""
    logprobs: int | Sequence[int | None] | None
    """Return the log probability of each token, and of this many most likely alternatives (0: none)."""
    num_return_sequences: int | None
    """Answers per prompt; more than one requires sampling."""


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


class RunArgs(StreamArgs, total=False):
    """Of :class:`QEfficient.generation_options.RunArguments`."""

    iteration: int
    """Times to run; the result is that of the last."""
    automation: bool
    """Go on after end tokens, up to generation_len."""
    write_io: bool
    """Write what the card gets and gives in each run to files, for qaic-runner; the folder is logged (card only)."""
    write_io_dir: str | os.PathLike[str] | None
    """The folder to write it to."""


class GenerateArgs(RunArgs, total=False):
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
    """Name of the model's prompt to put before each text. Default: the model's default prompt, if it has one."""
    prompt: str | None
    """A prompt to put before each text, instead of one of the model's."""
    batch_size: int | None
    """Texts per run. Default: the compiled batch size, which is fixed on a card."""
    truncation: bool | None
    """Cut texts that are too long. True: at the maximum of the model and the package. False: never. Default: at the
    maximum length that the model's folder names, if any, with a warning."""
    show_progress_bar: bool
    """Show a progress bar."""


class EncodeArgs(TextArgs, total=False):
    """Of :class:`QEfficient.generation.text_options.EncodeOptions`."""

    normalize_embeddings: bool
    """Scale each vector to length 1."""
    truncate_dim: int | None
    """Keep only the first so many dimensions of each vector, before normalization."""
    convert_to_tensor: bool
    """Return a torch tensor instead of an array."""


class PredictArgs(TextArgs, total=False):
    """Of :class:`QEfficient.generation.text_options.PredictOptions`."""

    apply_softmax: bool
    """Turn the scores of several labels into probabilities that add up to 1."""
    convert_to_tensor: bool
    """Return a torch tensor instead of an array."""


class RankArgs(TextArgs, total=False):
    """Of :class:`QEfficient.generation.text_options.RankOptions`."""

    top_k: int | None
    """Return only the best k documents. Default: all."""
    return_documents: bool
    """Return each document beside its index and score."""
