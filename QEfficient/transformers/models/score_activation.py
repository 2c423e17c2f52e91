"""The function that makes scores of a reranker's logits, where sentence-transformers stored one with the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from QEfficient.errors import CorruptCheckpoint, UnsupportedModel
from QEfficient.generation.tasks.sequence_classification import Activation
from QEfficient.transformers.checkpoint.files import contained, read_json, shortened

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_KEY, _KEY_BEFORE_V4 = "activation_fn", "sbert_ce_default_activation_function"


def name_in_folder(folder: Path) -> str | None:
    """The function's class in a checkpoint's ``config_sentence_transformers.json``, which sentence-transformers reads
    only beside a ``modules.json``.

    Raises:
        CorruptCheckpoint: the file is not JSON object, or names none.
        UnsafeCheckpoint: it is outside of the folder.
    """
    path = contained(folder, "config_sentence_transformers.json")
    if not path.is_file() or not (folder / "modules.json").is_file():
        return None
    return _checked(read_json(path).get(_KEY), str(path))


def name_in_config(config: PretrainedConfig) -> str | None:
    """The function's class in ``config.json``, as sentence-transformers 4 and 5 store it, or those before.

    Raises:
        CorruptCheckpoint: an entry is no name.
    """
    where, entry = f"The config of {config.name_or_path or 'the model'}", getattr(config, "sentence_transformers", None)
    if entry is not None and not isinstance(entry, dict):
        raise CorruptCheckpoint(f"{where}: sentence_transformers must be an object, got {shortened(entry)}.")
    if entry and _KEY in entry:
        return _checked(entry[_KEY], where)
    return _checked(getattr(config, _KEY_BEFORE_V4, None), where)


def _checked(name: object, where: str) -> str | None:
    if name is not None and not isinstance(name, str):
        raise CorruptCheckpoint(f"{where}: {_KEY} must be the name of a class, got {shortened(name)}. Correct it.")
    return name


def is_of_torch(name: str) -> bool:
    """Whether a class is torch's. sentence-transformers scores with the default instead of another, unless it may run
    the checkpoint's code."""
    return name.startswith("torch.")


def activation(name: str | None) -> Activation | None:
    """What ``name`` asks for; None: the problem type decides.

    Raises:
        UnsupportedModel: a package cannot run it.
    """
    if name is None or not is_of_torch(name):
        return None
    for known in get_args(Activation):
        if name.rpartition(".")[2] == known:
            return known
    raise UnsupportedModel(
        f"The checkpoint scores with {shortened(name)}, and a package can with {', '.join(get_args(Activation))}. Take "
        f"{_KEY} out of its config.json or config_sentence_transformers.json, and apply it to the logits of generate()."
    )
