"""Every error that the library raises on purpose.

    QEffError
    ├── OptionError            an argument is misspelt, out of range or contradicts another   (also ValueError)
    ├── MovedName              a name of upstream that is something else here                 (also ImportError)
    ├── LifecycleError         a stage was called before one that it needs                    (also RuntimeError)
    ├── CheckpointError        a checkpoint cannot be used as it is
    │   ├── CheckpointNotFound     no such folder or model id, or no config in it             (also FileNotFoundError)
    │   ├── UnsafeCheckpoint       pickled weights, remote code that is not allowed, a file outside of the folder
    │   └── CorruptCheckpoint      a damaged file; missing, misshapen, mistyped or non-finite weights
    ├── UnsupportedModel       the architecture needs something that the target does not have
    ├── ExportError            PyTorch to ONNX failed
    │   └── SizeDependence         the model's code depends on the size of an input: no graph is for all sizes
    ├── CompileError           the compiler failed
    ├── TargetUnavailable      the target's SDK or runtime is not on this machine
    ├── NumericError           the model computed NaN or infinity where its answer should be  (also ArithmeticError)
    ├── DeviceError            a card failed, or did not answer in time                       (also RuntimeError)
    ├── DatasetError           data to train on cannot be used; names file and line           (also ValueError)
    ├── CapacityError          a request does not fit: context, slots, memory                 (also ValueError)
    ├── ArtifactError          a stored artifact cannot be used
    │   ├── ArtifactNotFound       no package at this path                                    (also FileNotFoundError)
    │   ├── CorruptArtifact        bytes differ from the manifest, or it does not fit its program
    │   ├── NewerFormat            written by a newer library
    │   └── OlderFormat            written by an older library: compile again
    └── StorageError           the disk is full or not writable                               (also OSError)

A message says what happened, where, the expected and the actual value, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches


class QEffError(Exception):
    """Base of all errors raised on purpose by this library."""


class OptionError(QEffError, ValueError):
    """An argument is misspelt, out of range or contradicts another."""


class MovedName(QEffError, ImportError):
    """A name of upstream's library that is something else here."""


class LifecycleError(QEffError, RuntimeError):
    """A stage was called before one that it needs."""


class CheckpointError(QEffError):
    """A checkpoint cannot be used as it is."""


class CheckpointNotFound(CheckpointError, FileNotFoundError):
    """No such folder or model id on the Hub, or no config in it."""


class UnsafeCheckpoint(CheckpointError):
    """Loading would run code (pickles, remote code without permission), or read a file outside of the folder."""


class CorruptCheckpoint(CheckpointError):
    """A file is damaged, or weights are missing, misshapen, of a wrong type or not finite."""


class UnsupportedModel(QEffError):
    """The architecture needs something that the target does not have."""


class ExportError(QEffError):
    """PyTorch to ONNX failed."""


class SizeDependence(ExportError):
    """The model's code depends on the size of an input, so that no graph is for all sizes.

    ``ranges``: for names of axes, the minimum and maximum size that one graph could support, if known.
    """

    def __init__(self, message: str, ranges: dict[str, tuple[int, int]] | None = None):
        super().__init__(message)
        self.ranges = ranges or {}


class CompileError(QEffError):
    """The target's compiler failed."""


class TargetUnavailable(QEffError):
    """The target's SDK or runtime is not on this machine."""


class DeviceError(QEffError, RuntimeError):
    """A card, or its runtime, failed or did not answer in time."""


class NumericError(QEffError, ArithmeticError):
    """The model computed NaN or infinity where its answer should be.

    ``token_ids``: the answer up to there.
    """

    def __init__(self, message: str, token_ids: Iterable[int] = ()):
        super().__init__(message)
        self.token_ids = list(token_ids)


class DatasetError(QEffError, ValueError):
    """Data to train on cannot be read, do not fit their layout, or leave nothing to learn."""


class CapacityError(QEffError, ValueError):
    """A request does not fit what was compiled: context, slots or memory."""


class ArtifactError(QEffError):
    """A stored artifact cannot be used."""


class ArtifactNotFound(ArtifactError, FileNotFoundError):
    """There is no package at this path."""


class CorruptArtifact(ArtifactError):
    """The bytes on disk differ from what the manifest says, or it does not fit the program."""


class NewerFormat(ArtifactError):
    """The package was written by a newer version of the library."""


class OlderFormat(ArtifactError):
    """The package was written by an older version of the library, in a form that is no longer read."""


class StorageError(QEffError, OSError):
    """The disk is full or not writable, or no file can have the path."""


_SYNONYMS = {
    "backend": "target",
    "context_length": "ctx_len",
    "context_size": "ctx_len",
    "device": "target",
    "dimensions": "truncate_dim",
    "dtype": "precision",
    "length": "max_new_tokens",
    "load_in_4bit": "weight_format",
    "load_in_8bit": "weight_format",
    "max_batch_size": "full_batch_size",
    "max_context_length": "ctx_len",
    "max_model_len": "ctx_len",
    "max_num_seqs": "full_batch_size",
    "max_seq_len": "ctx_len",
    "max_completion_tokens": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "max_output_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "n": "num_return_sequences",
    "n_ctx": "ctx_len",
    "n_parallel": "full_batch_size",
    "n_predict": "max_new_tokens",
    "n_threads": "num_threads",
    "normalize": "normalize_embeddings",
    "num_ctx": "ctx_len",
    "num_predict": "max_new_tokens",
    "num_thread": "num_threads",
    "progress_bar": "show_progress_bar",
    "quantization": "weight_format",
    "quantize": "weight_format",
    "ngram_size": "no_repeat_ngram_size",
    "bad_words": "bad_words_ids",
    "random_seed": "seed",
    "rep_pen": "repetition_penalty",
    "repeat_penalty": "repetition_penalty",
    "stop": "stop_strings",
    "stop_sequences": "stop_strings",
    "stop_token_ids": "eos_token_id",
    "stop_words": "stop_strings",
    "stopping_strings": "stop_strings",
    "system_prompt": "system",
    "temp": "temperature",
    "tensor_parallel_size": "num_devices",
    "threads": "num_threads",
    "top_n": "top_k",
    "torch_dtype": "precision",
    "top_logprobs": "logprobs",
    "typical": "typical_p",
}
"""What other libraries call options of ours."""


def nearest(name: str, known: Iterable[str], spell: Callable[[str], str] = str) -> str:
    """``" Did you mean 'x'?"`` for the known name that means the same or is closest, or an empty string.

    Args:
        name: the name that has no match.
        known: what there is.
        spell: how the user writes a known name.
    """
    names = list(known)
    matches = [_SYNONYMS[name]] if _SYNONYMS.get(name) in names else get_close_matches(name, names, n=1)
    return f" Did you mean '{spell(matches[0])}'?" if matches else ""
