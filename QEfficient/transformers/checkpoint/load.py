"""Opens a checkpoint, from the Hub or a local folder, and checks it before any of it is used."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import safe_open
from torch import nn

from QEfficient.errors import (
    CheckpointError,
    CheckpointNotFound,
    CorruptCheckpoint,
    OptionError,
    StorageError,
    UnsupportedModel,
)
from QEfficient.generation_config import check_generation_config
from QEfficient.machine import SLOW_TOKENIZERS
from QEfficient.options import require_bool
from QEfficient.progress import transferred
from QEfficient.store.files import storage_errors
from QEfficient.transformers.checkpoint.build_limits import BuildLimits
from QEfficient.transformers.checkpoint.dense_layers import module_files
from QEfficient.transformers.checkpoint.dense_view import DenseView, NothingStored
from QEfficient.transformers.checkpoint.download_bar import download_bar
from QEfficient.transformers.checkpoint.files import (
    NOT_READ,
    READ,
    SECTIONS,
    SHARDS,
    VOCABULARIES,
    check_code,
    checked_name,
    config_source,
    contained,
    is_any,
    local_folder,
    read_config,
    read_json,
)
from QEfficient.transformers.checkpoint.gguf_folder import SUFFIX as GGUF_SUFFIX
from QEfficient.transformers.checkpoint.gguf_folder import gguf_checkpoint, gguf_in, shard_pattern
from QEfficient.transformers.checkpoint.loader_errors import label_of, loader_errors
from QEfficient.transformers.checkpoint.meta_model import outline
from QEfficient.transformers.checkpoint.missing import mark_missing
from QEfficient.transformers.checkpoint.other_layouts import of_file, without_config
from QEfficient.transformers.checkpoint.packed import Quantized
from QEfficient.transformers.checkpoint.unread import Unread, UnreadParameter, evaluate, mapped, stored_in
from QEfficient.transformers.checkpoint.weight_files import WeightFile, WeightFiles, missing_shards
from QEfficient.transformers.quantizers.auto import QuantizedWeights, quantized_weights, read_scheme

logger = logging.getLogger(__name__)

_LOADING = RLock()
"""What patches transformers' loader runs in one thread at a time."""
_DESCRIPTION = ["config.json", "*.py"]
_GGUF = "gguf_file"
_HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")
LOAD_OPTIONS = frozenset({*_HUB_OPTIONS, _GGUF, "dtype", "torch_dtype"})
"""What ``from_pretrained`` takes beside the options of its class."""


def check_options(options: Mapping[str, Any]) -> None:
    """
    Args:
        options: of ``from_pretrained``: those of :data:`LOAD_OPTIONS`, and ``trust_remote_code``.

    Raises:
        OptionError: one has a wrong type; text such as "no" is no switch.
    """
    for name, value in options.items():
        if value is None or (name == "token" and isinstance(value, bool)):
            continue
        if name in ("local_files_only", "trust_remote_code"):
            require_bool(name, value)
        elif name in ("dtype", "torch_dtype"):
            _check_dtype(name, value)
        elif not isinstance(value, str | Path):
            raise OptionError(f"{name} must be text, got {value!r}.")


def _check_dtype(name: str, value: object) -> None:
    dtype = getattr(torch, value, None) if isinstance(value, str) else value
    if value != "auto" and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise OptionError(f"{name} must be 'auto' or a type of real numbers such as 'bfloat16', got {value!r}.")


def resolve(model_name: str | os.PathLike[str], *, config_only: bool = False, **options: Any) -> Path:
    """The local folder of a model: itself if it is one, else its snapshot from the Hub; of a GGUF file the one that is
    made of it.

    Args:
        model_name: a folder or a GGUF file, or a model id on the Hub such as ``Qwen/Qwen2.5-0.5B-Instruct``.
        config_only: download no weights and no tokenizer.
        options: ``revision``, ``cache_dir``, ``token``, ``local_files_only``, as in huggingface_hub, and ``gguf_file``,
            the name of a GGUF file in the folder or repository.

    Raises:
        CheckpointNotFound: there is no such folder or model, or it has no ``config.json``.
        CorruptCheckpoint: a GGUF file is damaged.
    """
    name = checked_name(model_name)
    folder, gguf_file = local_folder(name), options.get(_GGUF)
    if gguf_file is not None and (folder.is_file() or not str(gguf_file) or Path(gguf_file).is_absolute()):
        raise OptionError(
            f"gguf_file={str(gguf_file)!r} must be the name of a file in the folder or repository {name!r}."
        )
    if folder.is_file() or (folder.suffix.lower() == GGUF_SUFFIX and not folder.is_dir()):
        return _of_file(folder)
    hub_options = {name: options[name] for name in _HUB_OPTIONS if options.get(name) is not None}
    if gguf_file is not None:
        if not folder.is_dir():
            folder = download(name, hub_options, [shard_pattern(escape(str(gguf_file)))])
        return gguf_checkpoint(contained(folder, str(gguf_file)))
    if not folder.is_dir():
        if config_only:
            folder = download(name, hub_options, _DESCRIPTION)
        else:
            folder = download(name, hub_options, [each for each in READ if each != SHARDS], [*NOT_READ])
            with loader_errors(folder, "a file"):
                shards = [escape(shard) for shard in missing_shards(folder)]
            if further := [*shards, *map(escape, module_files(folder))]:
                folder = download(name, hub_options, further)
    elif not any(folder.glob("*.safetensors")) and (file := gguf_in(folder)) is not None:
        return gguf_checkpoint(file)
    if not (folder / "config.json").is_file():
        raise CheckpointNotFound(
            f"'{name}' has no config.json, so it is not a transformers checkpoint. {without_config(folder)}"
        )
    return folder


def _of_file(path: Path) -> Path:
    if not path.is_file():
        raise CheckpointNotFound(f"There is no file '{path}'.")
    if path.suffix.lower() != GGUF_SUFFIX:
        raise of_file(path)
    return gguf_checkpoint(path)


def download(model_name: str, options: dict[str, Any], wanted: list[str], unwanted: list[str] | None = None) -> Path:
    """The snapshot of a repository of the Hub, with the files whose names have a pattern of ``wanted``.

    Raises:
        CheckpointNotFound: there is none, or it cannot be downloaded.
        StorageError: the disk is full or not writable.
    """
    cache = Path(options.get("cache_dir") or HF_HUB_CACHE)
    try:
        with storage_errors(cache, only_under=cache), transferred("Downloading", model_name) as report:
            bar = download_bar(report)
            return Path(
                snapshot_download(
                    model_name, allow_patterns=wanted, ignore_patterns=unwanted, tqdm_class=bar, **options
                )
            )
    except StorageError:
        raise
    except HFValidationError as error:
        raise CheckpointNotFound(
            f"There is no folder '{model_name}', and it is not a valid model id on the Hub either."
        ) from error
    except LocalEntryNotFoundError as error:
        raise CheckpointNotFound(
            f"There is no folder '{model_name}', and the model of that id is not in the local Hub cache and cannot be "
            "downloaded now (offline?)."
        ) from error
    except HfHubHTTPError as error:
        raise CheckpointNotFound(
            f"There is no folder '{model_name}', and the Hub serves no model of that id (revision "
            f"{options.get('revision') or 'main'}): {error}. A gated model needs token=... or `hf auth login`."
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointNotFound(f"'{model_name}' cannot be downloaded: {error}") from error


def check_safe(folder: Path, trust_remote_code: bool) -> WeightFiles:
    """The weight files of a checkpoint that may be loaded.

    Raises:
        UnsafeCheckpoint: loading would run code (pickled weights, or Python files that were not allowed), or read a
            file outside of the folder.
        UnsupportedModel: the weights are quantised in a way that is not read.
        CheckpointNotFound: there are no weights.
        CorruptCheckpoint: a file is not what its name says, or the config gives sizes that the weights do not have.
    """
    with loader_errors(folder, "a file"):
        config = read_config(folder)
        check_code(folder, config, trust_remote_code)
        read_scheme(folder)
        generation = folder / "generation_config.json"
        if generation.exists():
            check_generation_config(read_json(generation), str(generation), CorruptCheckpoint)
        files = WeightFiles(folder)
        files.check_config(config)
        return files


def load_config(folder: Path, trust_remote_code: bool = False) -> Any:
    """The Hugging Face config in ``folder``, which was checked.

    Kernels that it names, of the machine that it was saved on, give way to transformers' defaults: a lowering
    brings others. So does its quantisation: the model is that of the dense weights.

    Raises:
        UnsupportedModel: transformers knows no such architecture.
        CorruptCheckpoint: a value has a wrong type.
    """
    from transformers import AutoConfig

    with loader_errors(folder, "the config", unknown=(ValueError, KeyError)):
        return without_machine(AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code))


def without_machine(config: Any) -> Any:
    """``config`` without the kernels and the quantisation of the machine that it was saved on."""
    config._attn_implementation = config._experts_implementation = None
    for part in {id(part): part for part in (config, config.get_text_config(decoder=True))}.values():
        for name in SECTIONS:
            vars(part).pop(name, None)
    return config


def load_model(auto_class: Any, folder: Path, trust_remote_code: bool = False, **options: Any) -> Any:
    """The Hugging Face model in ``folder``, in the checkpoint's dtype, its safetensors memory-mapped.

    Raises:
        UnsafeCheckpoint: see :func:`check_safe`.
        UnsupportedModel: transformers knows no model of this kind for the checkpoint.
        CorruptCheckpoint: weights are truncated, missing, misshapen or of a wrong type.
    """
    files = check_safe(folder, trust_remote_code)
    weights = _quantized_weights(auto_class, files, trust_remote_code, options.get("config"))
    limits = _build_limits(files, weights)

    def expanded(tensor: Unread) -> torch.Tensor:
        with limits.paused():
            return evaluate(tensor, mapped)

    def open_file(file: WeightFile, **options: Any) -> Any:
        opened = NothingStored() if file.is_gguf else safe_open(file.path, **options)
        return DenseView(opened, weights.in_file(file), weights.parts, expanded)

    with limits:
        model = _load(auto_class, files, weights, trust_remote_code, open_file, options)
    _check_dtypes(folder, files, model, weights)
    return model


def _quantized_weights(
    auto_class: Any, files: WeightFiles, trust_remote_code: bool, changed: Any | None
) -> QuantizedWeights:
    def meta_model() -> nn.Module:
        config = load_config(files.folder, trust_remote_code) if changed is None else copy.deepcopy(changed)
        model: nn.Module = outline(auto_class, config, files.folder, trust_remote_code)
        return model

    return quantized_weights(read_scheme(files.folder), files, meta_model)


def _build_limits(files: WeightFiles, weights: QuantizedWeights) -> BuildLimits:
    num_bytes = files.num_bytes + sum(weight.tensor.num_bytes for weight in weights.tensors.values())
    return BuildLimits(files.folder, files.num_tensors, num_bytes)


def _load(
    auto_class: Any,
    files: WeightFiles,
    weights: QuantizedWeights,
    trust_remote_code: bool,
    open_file: Callable[..., Any],
    options: dict[str, Any],
    *,
    in_this_thread: bool = False,
) -> Any:
    from QEfficient.transformers.patches import weights_opened_by

    config = load_config(files.folder, trust_remote_code) if "config" not in options else None
    options = {"config": config, "dtype": "auto", "trust_remote_code": trust_remote_code, **options}
    # transformers would stop at a mismatch without naming the weight; the loading info names it.
    report = {"output_loading_info": True, "ignore_mismatched_sizes": True, "use_safetensors": True}
    # transformers unpickles what is not called safetensors.
    paths = {str(path) if path.suffix == ".safetensors" else f"{path}.safetensors": path for path in files.paths}

    def open_path(path: str, **options: Any) -> Any:
        return open_file(files.file(paths.get(path, Path(path))), **options)

    with (
        _LOADING,
        weights_opened_by(open_path, [*paths], in_this_thread=in_this_thread, conversions=weights.conversions),
        loader_errors(files.folder, f"the {label_of(auto_class)}", unknown=(ValueError, KeyError)),
        _quiet_transformers(),
    ):
        model, info = auto_class.from_pretrained(files.folder, **report, **options)
    _check_orientation(files.folder, model, weights)
    with loader_errors(files.folder, "the quantised layers"):
        weights.change(model)
    _check_loaded(files.folder, info, mark_missing(model, info.get("missing_keys", ())))
    return model.eval()


def _check_orientation(folder: Path, model: nn.Module, weights: QuantizedWeights) -> None:
    """Refuse packed weights of modules whose matrices are transposed: a square one would load the wrong way round."""
    from transformers.pytorch_utils import Conv1D

    packed = [name for name, weight in weights.tensors.items() if isinstance(weight, Quantized)]
    if not packed:
        return
    for name, module in model.named_modules():
        stored = next((each for each in packed if f".{each}".endswith(f".{name}.weight")), None)
        if isinstance(module, Conv1D) and stored is not None:
            raise UnsupportedModel(
                f"{folder}: '{stored}' is quantised, and a {type(module).__name__} stores its matrix transposed, which "
                "this version does not read. Take the model's original checkpoint with weight_format='int8' or 'int4' "
                "(cpu) or mxfp6_matmul=True (card)."
            )


def load_skeleton(auto_class: Any, folder: Path, trust_remote_code: bool = False, **options: Any) -> Any:
    """The model that :func:`load_model` gives, its parameters still to be read where that is possible.

    A parameter is an :class:`~QEfficient.transformers.checkpoint.unread.UnreadParameter` then, on the meta device;
    buffers have their values. Where transformers computes with weights while it loads them, they are read at once.

    Raises:
        UnsafeCheckpoint, UnsupportedModel, CorruptCheckpoint: as :func:`load_model`.
    """
    from QEfficient.transformers.checkpoint.recorder import Recorder

    files = check_safe(folder, trust_remote_code)
    weights = _quantized_weights(auto_class, files, trust_remote_code, options.get("config"))
    recorder = Recorder(_build_limits(files, weights))

    def open_file(file: WeightFile, **options: Any) -> Any:
        opened = NothingStored() if file.is_gguf else recorder.open(file, **options)
        return DenseView(opened, weights.in_file(file), weights.parts, recorder.stand_in)

    try:
        with recorder:
            model = _load(auto_class, files, weights, trust_remote_code, open_file, options, in_this_thread=True)
        recorder.settle(model)
    except (CheckpointError, UnsupportedModel) as error:  # the message of a real load is the true one
        recorder.obstacles.append(str(error))
    else:
        _check_dtypes(folder, files, model, weights)
    if recorder.obstacles:
        logger.info("The weights in %s are read at once: %s.", folder, recorder.obstacles[0])
        return load_model(auto_class, folder, trust_remote_code, **options)
    return model


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers' loading report and progress bar off the terminal: what they say, ours says."""
    from transformers.utils import logging

    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()


def _check_loaded(folder: Path, info: dict[str, Any], missing_buffers: list[str]) -> None:
    problems = [f"'{key}' is missing" for key in missing_buffers]
    problems += [
        f"'{key}' has shape {tuple(actual)}, expected {tuple(expected)}"
        for key, actual, expected in sorted(info.get("mismatched_keys", ()))
    ]
    problems += [str(message) for message in info.get("error_msgs", ())]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        source = config_source(folder)
        place, what = (folder, source.name) if source.parent == folder else (source, "metadata")
        raise CorruptCheckpoint(
            f"The weights in {place} do not fit its {what}: {'; '.join(problems[:3])}{more}. "
            "The checkpoint is incomplete, or its config belongs to another model."
        )


def _check_dtypes(folder: Path, files: WeightFiles, model: nn.Module, weights: QuantizedWeights) -> None:
    """Refuse integers where the model has real numbers: a cast would make other weights of the same bytes."""
    stored = ((name, tensor) for name, tensor in files.tensors() if name not in weights.parts)
    dtypes = {name: tensor.dtype for name, tensor in stored if not tensor.is_float}
    if not dtypes:
        return
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for name, parameter in model.named_parameters(remove_duplicate=False):
        sources = {name, name.removeprefix(prefix), f"{prefix}{name}"}
        if isinstance(parameter, UnreadParameter):
            sources = {stored.name for stored in stored_in(parameter.unread)}
        wrong = sorted(sources & dtypes.keys())
        if wrong and torch.is_floating_point(parameter):
            raise CorruptCheckpoint(
                f"Weight '{wrong[0]}' in {folder} is stored as {dtypes[wrong[0]]}, expected real numbers: '{name}' of "
                f"the config's model is {str(parameter.dtype).removeprefix('torch.')}. Download the checkpoint again."
            )


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any | None:
    """The checkpoint's tokenizer, or None if it brings none.

    Raises:
        UnsafeCheckpoint: it brings code that was not allowed, or a file is a link out of the folder.
        UnsupportedModel: a package that it needs is not installed.
        CorruptCheckpoint: transformers cannot read it.
    """
    from transformers import AutoTokenizer

    vocabularies = [path.name for path in folder.iterdir() if is_any(path.name, VOCABULARIES) and path.is_file()]
    if not vocabularies:
        return None
    with loader_errors(folder, "the tokenizer"):
        check_code(folder, read_config(folder), trust_remote_code)
        try:
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        except (ImportError, ValueError) as error:
            if (lacking := _lacking_package(error, vocabularies)) is None:
                raise
            raise UnsupportedModel(
                f"{folder}: its tokenizer ({', '.join(sorted(vocabularies)[:3])}) needs a package that is not "
                f"installed: {lacking}. Install it; {SLOW_TOKENIZERS} has sentencepiece and sacremoses."
            ) from error


def _lacking_package(error: Exception, vocabularies: Iterable[str]) -> str | None:
    """What is not installed, if that is why a tokenizer cannot be loaded: without sentencepiece, transformers does not
    know some classes at all."""
    if isinstance(error, ImportError):
        return " ".join(str(error).split())[:200]
    is_sentencepiece = any(is_any(name, ("*.model", "*.spm")) for name in vocabularies)
    return "sentencepiece" if is_sentencepiece and find_spec("sentencepiece") is None else None
