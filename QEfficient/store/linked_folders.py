"""Folders that are made of a user's files and link to them: made once, and removed when the files are gone.

They are beside the store's entries and are none: losing one only costs time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from QEfficient.store.digests import digest
from QEfficient.store.files import home, make_private, remove, storage_errors
from QEfficient.store.leftovers import scratch_folder

_FOLDER = "linked"


def linked_folder(files: Sequence[Path], ingredients: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
    """
    Args:
        files: absolute paths; each is a link of its name in the folder.
        ingredients: what else the folder depends on, the content of the files among it.
        build: writes all else.

    Raises:
        StorageError: the folder cannot be written.
    """
    folder = home() / _FOLDER / digest(ingredients)
    if not folder.is_dir():
        with storage_errors(home()), scratch_folder() as made:
            build(made)
            for file in files:
                (made / file.name).symlink_to(file)
            make_private(folder.parent)
            with suppress(FileExistsError):  # another process was faster
                made.rename(folder)
    return folder


def links_in(folder: Path) -> list[Path]:
    """The files that a folder was made of; none if it was not made here."""
    if folder.parent != home() / _FOLDER:
        return []
    return [Path(os.readlink(path)) for path in sorted(folder.iterdir()) if path.is_symlink()]


def forget_unlinked() -> None:
    """Remove the folders whose files are gone."""
    for folder in (home() / _FOLDER).glob("*"):
        if not all(file.exists() for file in links_in(folder)):
            remove(folder)
