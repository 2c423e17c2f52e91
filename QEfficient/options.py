"""The options of the library, as frozen values. Field docs are the command line's help and the docs' tables.

Each option of ``compile`` says beside its definition which compilers honour, ignore or refuse it. An unknown name is
an error that says which known one is nearest.
"""

from __future__ import annotations

import ast
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from itertools import pairwise
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar, cast, get_args, get_origin, get_type_hints

from QEfficient.errors import OptionError, nearest

if TYPE_CHECKING:
    import dataclasses

    Missing = dataclasses._MISSING_TYPE

Value = TypeVar("Value")

WeightFormat = Literal["int8", "int4"]
Precision = Literal["fp32", "bf16", "fp16"]

BACKENDS = ("qaic", "qnn", "openvino")
"""The compilers: qaic-compile and QNN for a card, OpenVINO for cpu."""
HONOURED: Final = "honoured"
IGNORED: Final = "ignored"
"""Accepted, reported once as having no effect."""


def option(
    default: Value | Missing = MISSING,
    *,
    factory: Callable[[], Value] | Missing = MISSING,
    qaic: str,
    qnn: str,
    openvino: str,
) -> Value:
    """A field of :class:`CompileOptions`.

    Args:
        default: as of ``dataclasses.field``.
        factory: as of ``dataclasses.field``.
        qaic: HONOURED, IGNORED, or why qaic-compile refuses a value other than the default, and what to use instead.
        qnn: the same of QNN.
        openvino: the same of OpenVINO.
    """
    support = {"qaic": qaic, "qnn": qnn, "openvino": openvino}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=support)
    return cast("Value", field(default=default, metadata=support))


def everywhere(default: Value) -> Value:
    """An option that every compiler honours."""
    return option(default, qaic=HONOURED, qnn=HONOURED, openvino=HONOURED)


def on_cards(default: Value, openvino: str = IGNORED) -> Value:
    """An option that both compilers of a card honour."""
    return option(default, qaic=HONOURED, qnn=HONOURED, openvino=openvino)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Base: built from keyword arguments, with errors that say what to use."""

    @classmethod
    def parse(cls, values: Mapping[str, Any], beside: Iterable[str] = ()) -> Self:
        """Options from keyword arguments.

        Args:
            values: values by name.
            beside: other arguments of the caller, for suggestions on a misspelt name.

        Raises:
            OptionError: an unknown name (says the nearest known one), or a value that is out of range.
        """
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raw = " Raw compiler flags go through compiler_options={...}." if "compiler_options" in known else ""
                raise OptionError(f"Unknown option '{name}'.{nearest(name, [*known, *beside])}{raw}")
        hints = _hints(cls)  # type: ignore[arg-type]  # a class is hashable
        values = {name: _from_text(name, value, hints[name]) for name, value in values.items()}
        for name, value in values.items():
            _check_type(name, value, hints[name])
        return cls(**values)

    @classmethod
    def support(cls, name: str, backend: str) -> str | None:
        """HONOURED, IGNORED, or why ``backend`` refuses option ``name``; None if the option does not declare it."""
        return next((item.metadata.get(backend) for item in fields(cls) if item.name == name), None)

    @classmethod
    def help(cls, name: str) -> str:
        """The documentation of field ``name``."""
        return _field_docs(cls).get(name, "")  # type: ignore[arg-type]  # a class is hashable


@cache
def _hints(cls: type[Options]) -> dict[str, Any]:
    return get_type_hints(cls)


def _from_text(name: str, value: object, hint: Any) -> object:
    """A list that is written as text: "[32, 128]"."""
    is_list = isinstance(value, str) and value.startswith("[")
    if not is_list or not any(get_origin(kind) is tuple for kind in get_args(hint)):
        return value
    try:
        return tuple(ast.literal_eval(str(value)))
    except (ValueError, SyntaxError) as error:
        raise OptionError(f"{name} must be a list of numbers, got {value!r}.") from error


def _check_type(name: str, value: object, hint: Any) -> None:
    """Refuse what no class checks by its range: text for a switch, which would be true, None, and mappings."""
    kinds = [kind for kind in (get_args(hint) or (hint,)) if kind is not type(None)]
    if value is None and type(None) not in (*get_args(hint), hint):
        raise OptionError(f"{name} must not be None: leave it out for its default.")
    if value is not None and kinds == [bool]:
        require_bool(name, value)
    if get_origin(kinds[0]) is Literal or isinstance(kinds[0], str):
        kinds = [str]
    if value is not None and kinds == [str] and not isinstance(value, str | os.PathLike):
        raise OptionError(f"{name} must be text, got {value!r}.")
    if get_origin(hint) is Mapping and not (isinstance(value, Mapping) and all(isinstance(key, str) for key in value)):
        raise OptionError(f"{name} must be a dict with names for keys, got {value!r}.")


def require_bool(name: str, value: object) -> None:
    """
    Raises:
        OptionError: ``value`` is neither True nor False. Text such as "no" would be true.
    """
    if not isinstance(value, bool):
        raise OptionError(f"{name} must be True or False, got {value!r}.")


@cache
def _field_docs(cls: type[Options]) -> dict[str, str]:
    """The docstring of each field of a dataclass and its bases."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        docs |= _docs_by_class(base.__module__).get(base.__name__, {})
    return docs


@cache
def _docs_by_class(module: str) -> dict[str, dict[str, str]]:
    """The docstrings of the fields of each class of a module: its source is parsed once."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: dict(_docs_in(node.body)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _docs_in(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for line, following in pairwise(body):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(following, ast.Expr):
            yield line.target.id, inspect.cleandoc(ast.literal_eval(following.value))


def _require_positive(options: Options, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise OptionError(f"{name} must be a whole number of at least 1, got {value!r}.")


def _check_batch_sizes(batch_size: int, full_batch_size: int | None) -> None:
    if full_batch_size is not None and batch_size not in (1, full_batch_size):
        raise OptionError(
            f"batch_size={batch_size} and full_batch_size={full_batch_size} contradict each other: "
            "give full_batch_size for continuous batching, or batch_size without it."
        )


def _require_choice(options: Options, name: str, choices: tuple[Any, ...]) -> None:
    value = getattr(options, name)
    if value is not None and value not in choices:
        raise OptionError(f"{name} must be one of {', '.join(map(repr, choices))} or None, got {value!r}.")


_FOR_QAIC = "it is for qaic-compile; QNN takes its settings through qnn_config"
_OPENVINO = "QNN compiles for a card; cpu compiles with OpenVINO"
_CARD_WEIGHTS = "the card's weights are fp16, or MXFP6 with mxfp6_matmul=True"
_CPU_KV_CACHE = (
    "cpu has no MXINT8; its KV cache is 8-bit already unless precision='fp32', and weights take weight_format='int8' "
    "or 'int4'"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileOptions(Options):
    """Options that every task's ``compile`` takes."""

    target: str | None = everywhere(None)
    """Where to run: 'cloud-ai-100', its simulator 'cloud-ai-100-sim', or 'cpu'. Default: the QEFF_TARGET environment
    variable, else the card if its SDK is on this machine, else 'cpu'."""
    batch_size: int = everywhere(1)
    """Rows per run."""
    num_devices: int = on_cards(1)
    """Number of cards to split each layer over (card only)."""
    num_cores: int = on_cards(16)
    """Number of cores to use on each card (card only)."""
    mxfp6_matmul: bool = on_cards(False, openvino="cpu has no MXFP6; use weight_format='int8' or weight_format='int4'")
    """Store matmul weights in MXFP6 (card only)."""
    aic_enable_depth_first: bool = on_cards(False)
    """Let the card's compiler schedule depth first (card only)."""
    mos: int | None = on_cards(None)
    """Memory optimisation strategy of the card's compiler; None and -1: its choice (card only)."""
    allow_mxint8_mdp_io: bool = on_cards(False)
    """Send activations between cards in MXINT8 (card only)."""
    mdp_num_partitions: int = on_cards(1)
    """Number of pipeline stages, each on separate cards (card only)."""
    mdp_load_partition_config: str | None = on_cards(None)
    """A partition file to use instead of the one from num_devices and mdp_num_partitions (card only)."""
    node_precision_info: str | None = option(None, qaic=HONOURED, qnn=_FOR_QAIC, openvino=IGNORED)
    """A file that names the nodes to keep in fp32 or fp16, as `qefficient verify` writes it (card only)."""
    aic_hw_version: str | None = on_cards(None)
    """Chip to compile for, such as 'ai100'. Default: the installed card's, else 'ai100' (card only)."""
    use_onnx_subfunctions: bool = option(False, qaic=HONOURED, qnn=_FOR_QAIC, openvino=IGNORED)
    """Export repeated layers as one function, which the compiler compiles once (card only)."""
    enable_qnn: bool = on_cards(False, openvino=_OPENVINO)
    """Compile through the QNN SDK instead of qaic-compile (card only)."""
    qnn_config: str | None = on_cards(None, openvino=_OPENVINO)
    """A JSON file with extra settings for QNN (card only; needs enable_qnn)."""
    dry_run: bool = on_cards(False, openvino="cpu's compiler is a library, so there is no command to show")
    """Write every file that the compiler reads and show the command, without running it (card only)."""
    weight_format: WeightFormat | None = option(None, qaic=_CARD_WEIGHTS, qnn=_CARD_WEIGHTS, openvino=HONOURED)
    """'int8' or 'int4' weights on cpu. Default: the checkpoint's dtype."""
    precision: Precision | None = everywhere(None)
    """Number format of the computation: 'fp32' for exact results. Default: fp16 on a card; on cpu bf16 if the processor
    supports it natively, else fp32, with an 8-bit KV cache and 8-bit inputs to quantized matmuls."""
    num_threads: int | None = option(None, qaic=IGNORED, qnn=IGNORED, openvino=HONOURED)
    """Threads on cpu. Default: one per physical core."""
    compiler_options: Mapping[str, Any] = option(factory=dict, qaic=HONOURED, qnn=_FOR_QAIC, openvino=HONOURED)
    """Raw options for the target's compiler, passed through unchanged. On cpu: OpenVINO properties that control the
    computation; properties of the machine, such as CACHE_DIR, are set when the package is opened."""

    def __post_init__(self) -> None:
        if self.mos == -1:
            object.__setattr__(self, "mos", None)
        counts = ("batch_size", "num_devices", "num_cores", "mos", "mdp_num_partitions", "num_threads")
        _require_positive(self, *counts)
        if self.qnn_config is not None and not self.enable_qnn:
            raise OptionError("qnn_config is read with enable_qnn=True only.")
        _require_choice(self, "weight_format", get_args(WeightFormat))
        _require_choice(self, "precision", get_args(Precision))


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalLMCompileOptions(CompileOptions):
    """Options of ``QEFFAutoModelForCausalLM.compile``."""

    prefill_seq_len: int | None = everywhere(None)
    """Prompt tokens per step; longer prompts are processed in chunks. Default: 32 on a card, 512 on cpu."""
    ctx_len: int = everywhere(128)
    """Maximum context in tokens, prompt and answer together. Default: 128 on a card; on cpu 4096, or as many as the
    model has positions for, and fewer if the KV cache would take more than a quarter of the memory or each step reads
    the whole context."""
    full_batch_size: int | None = everywhere(None)
    """Slots for continuous batching: sequences that run at once, at independent positions."""
    kv_cache_batch_size: int | None = on_cards(
        None, openvino="cpu keeps as many rows as it has slots; use full_batch_size"
    )
    """Rows of KV cache, if more than full_batch_size (for prefix caching; card only)."""
    mxint8_kv_cache: bool = on_cards(False, openvino=_CPU_KV_CACHE)
    """Keep the KV cache in MXINT8 (card only)."""
    prefill_only: bool | None = on_cards(None, openvino="cpu runs prompts and answers through one graph")
    """True: only the prefill step; False: only the decode step; None: both (card only)."""
    comp_ctx_lengths_prefill: tuple[int, ...] | None = on_cards(None)
    """Shorter context lengths to compile prefill for, in ascending order; each step uses the smallest that fits.
    ctx_len is always among them (card only)."""
    comp_ctx_lengths_decode: tuple[int, ...] | None = on_cards(None)
    """The same for decode (card only)."""
    num_speculative_tokens: int | tuple[int, ...] | None = on_cards(
        None, openvino="cpu has no graph for speculative decoding yet"
    )
    """Draft tokens verified per step, which returns the logits of all of them; several numbers make a specialization
    each, and 0 is a step without drafts (card only)."""
    lowering: Literal["retained", "paged"] | None = everywhere(None)
    """Force one of the target's lowerings. Default: the fastest that supports the model."""

    def __post_init__(self) -> None:
        CompileOptions.__post_init__(self)
        _require_positive(self, "prefill_seq_len", "ctx_len", "full_batch_size", "kv_cache_batch_size")
        self._check_num_speculative_tokens()
        _require_choice(self, "lowering", ("retained", "paged"))
        _check_batch_sizes(self.batch_size, self.full_batch_size)
        for name in ("comp_ctx_lengths_prefill", "comp_ctx_lengths_decode"):
            self._check_comp_ctx_lengths(name)
        if self.kv_cache_batch_size is not None:
            self._check_kv_cache_batch_size(self.kv_cache_batch_size)

    def _check_num_speculative_tokens(self) -> None:
        numbers = self.draft_lens
        if any(type(number) is not int or number < 0 for number in numbers) or self.num_speculative_tokens == ():
            raise OptionError(
                "num_speculative_tokens must be one or several whole numbers, 0 or more, got "
                f"{self.num_speculative_tokens!r}."
            )

    def _check_comp_ctx_lengths(self, name: str) -> None:
        lengths = getattr(self, name)
        if lengths is None:
            return
        is_list = isinstance(lengths, list | tuple) and all(type(n) is int for n in lengths)
        if not is_list or not lengths or list(lengths) != sorted({*lengths}) or lengths[0] < 1:
            raise OptionError(f"{name} must be whole numbers in ascending order, each once, got {lengths!r}.")
        if lengths[-1] > self.ctx_len:
            raise OptionError(
                f"{name} must be lengths up to ctx_len={self.ctx_len}; it ends with {lengths[-1]}. Give ctx_len too."
            )
        object.__setattr__(self, name, tuple(sorted({*lengths, self.ctx_len})))

    def _check_kv_cache_batch_size(self, num_rows: int) -> None:
        if self.full_batch_size is None or num_rows < self.full_batch_size:
            raise OptionError(
                f"kv_cache_batch_size={num_rows} are the rows that full_batch_size={self.full_batch_size} sequences "
                "share: it needs full_batch_size, and at least as many rows."
            )

    @property
    def draft_lens(self) -> tuple[int, ...]:
        """Numbers of draft tokens, ascending, each once; empty without speculative decoding."""
        return _each_once(self.num_speculative_tokens)

    @property
    def has_comp_ctx_lengths(self) -> bool:
        """Whether some steps compute over a part of the context."""
        return self.comp_ctx_lengths_prefill is not None or self.comp_ctx_lengths_decode is not None

    @property
    def num_slots(self) -> int:
        """Sequences that run at once."""
        return self.full_batch_size or self.batch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTextToTextCompileOptions(CausalLMCompileOptions):
    """Options of ``QEFFAutoModelForImageTextToText.compile``."""

    img_size: int | tuple[int, ...] | None = on_cards(None)
    """Size in pixels of the square images that the encoder takes on a card, if the processor does not fix it. No effect
    on cpu, which takes every size that the model does."""
    audio_seconds: float | tuple[float, ...] | None = on_cards(None)
    """Length in seconds of the clips that the encoder takes on a card, if the processor does not fix it. Default: 30.
    No effect on cpu."""
    vision_size: int | None = on_cards(None)
    """Rows of features per step of the language model. Default: the number of prompt tokens per step."""
    max_num_images: int = everywhere(1)
    """Maximum number of images per prompt, for models with cross-attention to images, such as Llama 3.2 Vision, which
    keep keys and values for this many. Other models take as many images as fit into ctx_len."""

    def __post_init__(self) -> None:
        CausalLMCompileOptions.__post_init__(self)
        _require_positive(self, "vision_size", "max_num_images")
        _check_img_sizes(self.img_sizes)
        if any(isinstance(each, bool) or not isinstance(each, int | float) or each <= 0 for each in self.clip_seconds):
            raise OptionError(f"audio_seconds must be one or several numbers above 0, got {self.audio_seconds!r}.")

    @property
    def img_sizes(self) -> tuple[int, ...]:
        """The compiled sizes, ascending, each once."""
        return _each_once(self.img_size)

    @property
    def clip_seconds(self) -> tuple[float, ...]:
        """The compiled lengths of clips, ascending, each once."""
        return _each_once(self.audio_seconds)


def _each_once(sizes: Value | Iterable[Value] | None) -> tuple[Value, ...]:
    if sizes is None:
        return ()
    return tuple(sorted({*sizes})) if isinstance(sizes, Iterable) else (sizes,)


def _check_img_sizes(sizes: tuple[int, ...]) -> None:
    if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
        raise OptionError(f"img_size must be one or several whole numbers of pixels, got {sizes!r}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderCompileOptions(CompileOptions):
    """Options of ``QEFFAutoModel.compile``."""

    seq_len: int | tuple[int, ...] = everywhere(32)
    """Compiled lengths in tokens, one or several; each input runs at the smallest that fits."""

    def __post_init__(self) -> None:
        CompileOptions.__post_init__(self)
        lengths = self._lens_as_tuple
        if not lengths or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in lengths):
            raise OptionError(f"seq_len must be one or several whole numbers of at least 1, got {self.seq_len!r}.")

    @property
    def seq_lens(self) -> tuple[int, ...]:
        """The compiled lengths, ascending, each once."""
        return tuple(sorted(set(self._lens_as_tuple)))

    @property
    def _lens_as_tuple(self) -> tuple[int, ...]:
        return tuple(self.seq_len) if isinstance(self.seq_len, Iterable) else (self.seq_len,)


@dataclass(frozen=True, kw_only=True, slots=True)
class CTCCompileOptions(EncoderCompileOptions):
    """Options of ``QEFFAutoModelForCTC.compile``."""

    seq_len: int | tuple[int, ...] = everywhere(480000)
    """Compiled lengths, one or several: in audio samples, or in frames if the model takes features. Audio runs at the
    smallest that fits. Default: 30 seconds, that is 480000 samples at 16 kHz, or the corresponding number of frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderDecoderCompileOptions(CompileOptions):
    """Options of models with an encoder that reads and a decoder that generates."""

    ctx_len: int = everywhere(128)
    """Maximum length of an answer in tokens, including its start token."""
    full_batch_size: int | None = everywhere(None)
    """Slots for continuous batching: answers that run at once, at independent positions. The encoder reads one input at
    a time."""
    mxint8_kv_cache: bool = on_cards(False, openvino=_CPU_KV_CACHE)
    """Keep keys and values, including those of the encoder's input, in MXINT8 (card only)."""

    def __post_init__(self) -> None:
        CompileOptions.__post_init__(self)
        _require_positive(self, "ctx_len", "full_batch_size")
        _check_batch_sizes(self.batch_size, self.full_batch_size)

    @property
    def num_slots(self) -> int:
        """Answers that run at once."""
        return self.full_batch_size or self.batch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class Seq2SeqLMCompileOptions(EncoderDecoderCompileOptions):
    """Options of ``QEFFAutoModelForSeq2SeqLM.compile``."""

    encoder_ctx_len: int = everywhere(128)
    """Maximum length of the encoder's input, in tokens."""

    def __post_init__(self) -> None:
        EncoderDecoderCompileOptions.__post_init__(self)
        _require_positive(self, "encoder_ctx_len")
        if self.encoder_ctx_len < 2:
            raise OptionError("encoder_ctx_len must be at least 2: a run of one token is a decode step.")


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechSeq2SeqCompileOptions(EncoderDecoderCompileOptions):
    """Options of ``QEFFAutoModelForSpeechSeq2Seq.compile``."""

    encoder_ctx_len: int | None = everywhere(None)
    """Maximum length of the audio, in encoder states. Default: 30 seconds, or the model's input length if that is
    fixed."""
    ctx_len: int = everywhere(150)
    """Maximum length of an answer in tokens, including its start tokens."""

    def __post_init__(self) -> None:
        EncoderDecoderCompileOptions.__post_init__(self)
        _require_positive(self, "encoder_ctx_len")
        if self.encoder_ctx_len is not None and self.encoder_ctx_len < 2:
            raise OptionError("encoder_ctx_len must be at least 2: a run of one state is a decode step.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Vision2SeqCompileOptions(EncoderDecoderCompileOptions):
    """Options of ``QEFFAutoModelForVision2Seq.compile``."""

    encoder_ctx_len: int | None = everywhere(None)
    """Maximum length of the prompt, in encoder states. Default: one image, plus 128 tokens if the encoder also reads
    text."""
    img_size: int | tuple[int, ...] | None = on_cards(None)
    """Size in pixels of the square images that the encoder takes on a card, if the processor does not fix it. No effect
    on cpu, which takes every size that the model does."""

    def __post_init__(self) -> None:
        EncoderDecoderCompileOptions.__post_init__(self)
        _require_positive(self, "encoder_ctx_len")
        _check_img_sizes(self.img_sizes)
        if self.encoder_ctx_len is not None and self.encoder_ctx_len < 2:
            raise OptionError("encoder_ctx_len must be at least 2: a run of one state is a decode step.")

    @property
    def img_sizes(self) -> tuple[int, ...]:
        """The compiled sizes, ascending, each once."""
        return _each_once(self.img_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingOptions(Options):
    """How the next token is chosen. transformers' names and meanings."""

    do_sample: bool | None = None
    """Sample instead of taking the most likely token. Default: on if temperature, top_k, top_p, min_p, typical_p,
    epsilon_cutoff or eta_cutoff is set."""
    temperature: float | None = None
    """Divides the logits: above 1 flattens the distribution, below 1 sharpens it."""
    top_k: int | None = None
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float | None = None
    """Keep the most likely tokens whose probabilities add up to this."""
    min_p: float | None = None
    """Keep tokens with at least this fraction of the most likely token's probability."""
    typical_p: float | None = None
    """Keep the tokens whose information content is closest to the expected one, until their probabilities add up to
    this."""
    epsilon_cutoff: float | None = None
    """Keep tokens with at least this probability; 0 keeps all."""
    eta_cutoff: float | None = None
    """Keep tokens with at least this probability, or less if the distribution is flat; 0 keeps all."""
    repetition_penalty: float | None = None
    """Above 1, makes tokens that already occurred less likely."""
    seed: int | None = None
    """Seed of the random generator, for repeatable sampling."""

    def __post_init__(self) -> None:
        self._require("temperature", "a finite number of at least 0", lambda value: 0 <= value < float("inf"))
        self._require("top_p", "a number above 0 and at most 1", lambda value: 0 < value <= 1)
        self._require("min_p", "a number from 0 to 1", lambda value: 0 <= value <= 1)
        self._require("typical_p", "a number above 0 and at most 1", lambda value: 0 < value <= 1)
        for name in ("epsilon_cutoff", "eta_cutoff"):
            self._require(name, "a number from 0 to 1, and not 1", lambda value: 0 <= value < 1)
        self._require("repetition_penalty", "a finite number above 0", lambda value: 0 < value < float("inf"))
        self._require("top_k", "a whole number, 0 (keep all) or more", lambda value: value >= 0, Integral)
        self._require("seed", "a whole number, 0 or more", lambda value: value >= 0, Integral)

    def _require(self, name: str, what: str, holds: Callable[[Any], bool], kind: type = Real) -> None:
        value = getattr(self, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind) or not holds(value)):
            raise OptionError(f"{name} must be {what}, got {value!r}.")

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random."""
        if self.do_sample is not None:
            return self.do_sample and self.temperature != 0
        chosen = [getattr(self, name) for name in TRUNCATION]
        return any(value is not None for value in chosen) and self.temperature != 0


TRUNCATION = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Options of sampling alone."""
