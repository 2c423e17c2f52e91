"""Opens a checkpoint, from the Hub or a local folder, and checks it before any of it is used."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError

from QEfficient.errors import CheckpointError, CheckpointNotFound, CorruptCheckpoint, UnsafeCheckpoint, UnsupportedModel
from QEfficient.transformers.checkpoint.files import check_code, quantization, read_config

logger = logging.getLogger(__name__)

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_DOWNLOAD = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py", "tokenizer*"]
_DESCRIPTION = ["config.json", "*.py"]
_HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")
LOAD_OPTIONS = frozenset({*_HUB_OPTIONS, "dtype", "torch_dtype"})
"""What ``from_pretrained`` takes beside the options of its class."""


def resolve(model_name: str, *, config_only: bool = False, **options: Any) -> Path:
    """The local folder of a model: itself if it is one, else its snapshot from the Hub.

    Args:
        model_name: a folder, or a model id on the Hub such as ``Qwen/Qwen2.5-0.5B-Instruct``.
        config_only: download no weights and no tokenizer.
        options: ``revision``, ``cache_dir``, ``token``, ``local_files_only``, as in huggingface_hub.

    Raises:
        CheckpointNotFound: there is no such folder or model, or it has no ``config.json``.
    """
    folder = Path(model_name).expanduser()
    if not folder.is_dir():
        wanted = _DESCRIPTION if config_only else _DOWNLOAD
        hub_options = {name: options[name] for name in _HUB_OPTIONS if options.get(name) is not None}
        folder = _download(model_name, wanted, hub_options)
    if not (folder / "config.json").is_file():
        raise CheckpointNotFound(
            f"'{model_name}' has no config.json, so it is not a transformers checkpoint. "
            "Give the folder that save_pretrained() made, or a model id on the Hub."
        )
    return folder


def _download(model_name: str, wanted: list[str], options: dict[str, Any]) -> Path:
    try:
        return Path(snapshot_download(model_name, allow_patterns=wanted, **options))
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


def check_safe(folder: Path, trust_remote_code: bool) -> None:
    """
    Raises:
        UnsafeCheckpoint: loading would run code: pickled weights, or Python files that were not allowed.
        UnsupportedModel: the weights are quantised.
    """
    config = read_config(folder)
    check_code(folder, config, trust_remote_code)
    _check_not_quantized(folder, config)
    if not list(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise UnsafeCheckpoint(
                f"The weights in {folder} are pickled ({', '.join(pickles[:3])}); unpickling runs code, so they are "
                "never loaded. Convert them to safetensors: load the model once in a place you trust and call "
                "save_pretrained()."
            )
        raise CheckpointNotFound(f"{folder} has a config but no weights (*.safetensors).")


def _check_not_quantized(folder: Path, config: dict[str, Any]) -> None:
    if (method := quantization(config)) is not None:
        raise UnsupportedModel(
            f"The weights in {folder} are quantised ('{method}'), and this version reads unquantised checkpoints "
            "only. Take the model's original checkpoint and compile it with weight_format='int8' or 'int4' (cpu) "
            "or mxfp6_matmul=True (card)."
        )


def load_model(auto_class: Any, folder: Path, trust_remote_code: bool = False, **options: Any) -> Any:
    """The Hugging Face model in ``folder``, in the checkpoint's dtype, its safetensors memory-mapped.

    Raises:
        UnsafeCheckpoint: see :func:`check_safe`.
        UnsupportedModel: transformers knows no model of this kind for the checkpoint.
        CorruptCheckpoint: weights are truncated, missing or misshapen.
    """
    check_safe(folder, trust_remote_code)
    options = {"dtype": "auto", "trust_remote_code": trust_remote_code, **options}
    # transformers would stop at a mismatch without naming the weight; the loading info names it.
    report = {"output_loading_info": True, "ignore_mismatched_sizes": True, "use_safetensors": True}
    try:
        with _quiet_transformers():
            model, info = auto_class.from_pretrained(folder, **report, **options)
    except SafetensorError as error:
        raise CorruptCheckpoint(
            f"The weights in {folder} cannot be read: {error}. A file is truncated or damaged; download it again."
        ) from error
    except ImportError as error:
        raise UnsupportedModel(f"Loading {folder} needs a package that is not installed: {error}") from error
    except (ValueError, KeyError) as error:
        raise UnsupportedModel(f"transformers cannot load {folder} with {auto_class.__name__}: {error}") from error
    except RuntimeError as error:
        raise CorruptCheckpoint(f"The weights in {folder} do not fit the config: {error}") from error
    _check_loaded(folder, info)
    return model.eval()


def load_skeleton(auto_class: Any, folder: Path, trust_remote_code: bool = False, **options: Any) -> Any:
    """The model that :func:`load_model` gives, its parameters still to be read where that is possible.

    A parameter is an :class:`~QEfficient.transformers.checkpoint.unread.UnreadParameter` then, on the meta device;
    buffers have their values. Where transformers computes with weights while it loads them, they are read at once.

    Raises:
        UnsafeCheckpoint, UnsupportedModel, CorruptCheckpoint: as :func:`load_model`.
    """
    from QEfficient.transformers.checkpoint.recorder import Recorder
    from QEfficient.transformers.patches import weights_opened_by

    check_safe(folder, trust_remote_code)
    recorder = Recorder()
    try:
        with recorder, weights_opened_by(recorder.open):
            model = load_model(auto_class, folder, trust_remote_code, **options)
        recorder.settle(model)
        obstacles = recorder.obstacles
    except (CheckpointError, UnsupportedModel) as error:  # the message of a real load is the true one
        obstacles = [str(error)]
    if obstacles:
        logger.info("The weights in %s are read at once: %s.", folder, obstacles[0])
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


def _check_loaded(folder: Path, info: dict[str, Any]) -> None:
    problems = [f"'{key}' is missing" for key in sorted(info.get("missing_keys", ()))]
    problems += [
        f"'{key}' has shape {tuple(actual)}, expected {tuple(expected)}"
        for key, actual, expected in sorted(info.get("mismatched_keys", ()))
    ]
    problems += [str(message) for message in info.get("error_msgs", ())]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise CorruptCheckpoint(
            f"The weights in {folder} do not fit its config.json: {'; '.join(problems[:3])}{more}. "
            "The checkpoint is incomplete, or its config belongs to another model."
        )


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any | None:
    """The checkpoint's tokenizer, or None if it brings none."""
    from transformers import AutoTokenizer

    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")
    if not any((folder / name).is_file() for name in names):
        return None
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
