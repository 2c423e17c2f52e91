"""Where the library keeps its files, and the few disk operations that have to survive a crash.

Everything that belongs to a published folder ``F`` but is not its content (lock, last-used marker, temporary and
quarantined copies) is beside it as ``.F.<role>``: on the same filesystem, so that a rename publishes, and outside of
the folder's listing.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from QEfficient.errors import OptionError, QEffError, StorageError

logger = logging.getLogger(__name__)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_IN_THE_WAY = frozenset({errno.EEXIST, errno.ENOTDIR, errno.EISDIR})


def home() -> Path:
    """The library's folder: ``$QEFF_HOME``, else the user's cache folder. Read at every call."""
    if chosen := os.environ.get("QEFF_HOME"):
        return user_path(chosen, "QEFF_HOME")
    from platformdirs import user_cache_path  # 40 ms that a process with $QEFF_HOME does not need

    return user_cache_path("qefficient")


def user_path(path: str | os.PathLike[str], name: str = "The path") -> Path:
    """A path of the user, absolute and with its ``~`` replaced.

    Args:
        path: what the user wrote.
        name: what it is called, for messages.

    Raises:
        OptionError: it is no text.
        StorageError: no file can have it.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise OptionError(f"{name} must be text or a Path, got {path!r}.")
    try:
        text.encode()
        if "\0" in text:
            raise ValueError("it has a NUL character")
        chosen = Path(text).expanduser().absolute()
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            os.lstat(chosen)
        return chosen
    except (ValueError, RuntimeError, OSError) as error:  # not UTF-8, no such user, no working folder, too long
        raise StorageError(f"{name} {text!r} cannot be used: {error}. Choose another one.") from error


def short_name(path: str | os.PathLike[str]) -> str:
    """The last two parts of a path, since folders of models are often called ``model`` or ``checkpoint``."""
    return "/".join(part for part in Path(path).absolute().parts[-2:] if part != os.sep)


def temporary_home() -> Path:
    """A folder of this user alone that stands in for one that cannot be written. Created on first use.

    Raises:
        StorageError: it cannot be created, or another user could have written into it.
    """
    folder = _temporary_home()
    with storage_errors(folder):
        make_private(folder)
        if not _is_private(folder):
            raise StorageError(
                f"{folder} is not a folder of this user alone. Remove it, or set TMPDIR. {_DENIED_ADVICE}"
            )
    return folder


def existing_temporary_home() -> Path | None:
    """:func:`temporary_home`, if it is there and of this user alone."""
    with suppress(OSError):
        folder = _temporary_home()
        return folder if _is_private(folder) else None
    return None


def _temporary_home() -> Path:
    user = os.geteuid() if os.name == "posix" else "user"
    return Path(tempfile.gettempdir()) / f"qefficient-{user}"


def _is_private(folder: Path) -> bool:
    status = folder.lstat()
    is_ours = os.name != "posix" or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)
    return stat.S_ISDIR(status.st_mode) and is_ours


UNFINISHED = "unfinished"
"""The folder of :func:`home` for what is being made; :mod:`QEfficient.store.leftovers` clears it up."""
SHORT_LIVED = ".new"
"""Suffix of files that live there for an instant."""


def new_file() -> Path:
    """An unused path, on the filesystem of :func:`home`, for a small file that is renamed at once.

    Raises:
        OSError: its folder cannot be created.
    """
    make_private(home())
    make_private(home() / UNFINISHED)
    return home() / UNFINISHED / f"{secrets.token_hex(6)}{SHORT_LIVED}"


def sibling(folder: Path, role: str) -> Path:
    """``.<name>.<role>`` beside ``folder``."""
    return folder.parent / f".{folder.name}.{role}"


def new_sibling(folder: Path, role: str) -> Path:
    """A sibling name that is unique."""
    return sibling(folder, f"{role}-{secrets.token_hex(6)}")


def siblings(folder: Path, role: str) -> list[Path]:
    """The existing files and folders that :func:`new_sibling` named."""
    prefix = f".{folder.name}.{role}-"
    try:
        return sorted(folder.parent / name for name in os.listdir(folder.parent) if name.startswith(prefix))
    except FileNotFoundError:
        return []


def make_private(folder: Path) -> None:
    """Create ``folder`` for this user alone (0700); an existing one keeps its mode."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


@cache
def warn_if_shared(folder: Path) -> None:
    """Warn once per process that other users could change the content of ``folder``."""
    if os.name != "posix" or not folder.is_dir():
        return
    status = folder.stat()
    if status.st_uid != os.getuid():
        logger.warning("%s belongs to another user (uid %d), who can change its content", folder, status.st_uid)
    elif status.st_mode & stat.S_IWOTH:
        logger.warning("%s can be written by every user of this machine: run chmod 700 on it", folder)


def list_files(folder: Path) -> dict[str, os.stat_result]:
    """Everything in ``folder`` that is not a directory, by POSIX relative name, links not followed.

    NFS keeps a file that was deleted while open as ``.nfs…``; such leftovers are not content and are left out.
    """
    statuses: dict[str, os.stat_result] = {}
    pending = [(folder, "")]
    while pending:
        here, prefix = pending.pop()
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append((here / entry.name, f"{prefix}{entry.name}/"))
                elif not entry.name.startswith(".nfs"):
                    statuses[prefix + entry.name] = entry.stat(follow_symlinks=False)
    return dict(sorted(statuses.items()))


def sync_file(path: Path) -> None:
    """Return when the file's bytes are on the disk."""
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Return when the folder's names are on the disk. Windows cannot open a folder and needs no such call."""
    if os.name == "posix":
        sync_file(folder)


def sync_tree(folder: Path) -> None:
    """:func:`sync_folder` for ``folder`` and every folder in it."""
    for here, _, _ in os.walk(folder):
        sync_folder(Path(here))


def write_atomic(path: Path, text: str, *, temporary: Path) -> None:
    """Replace ``path`` so that a reader sees the old text or the new one, also after a power cut.

    Args:
        path: The file to replace or create.
        text: Its new content.
        temporary: An unused name on the same filesystem. Nothing is left there.
    """
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Delete a file or a folder as far as possible; a later sweep removes the rest."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


_FULL_WORDS = re.compile(
    r"(?i)no space left on device|disk quota exceeded|\(os error (?:27|28|122)\)|basic_ios::\w+: iostream error"
)
"""What native code says when it cannot write: of the system, of Rust, of C++ streams."""


def says_full(text: str) -> bool:
    """Whether the message of another library says that the disk is full."""
    return _FULL_WORDS.search(text) is not None


def full_disk(folder: Path, reason: str, needed_bytes: int | None = None) -> StorageError:
    """The error for a full disk that was not reported as an ``OSError``.

    Args:
        folder: what was being written.
        reason: what the writer said.
        needed_bytes: size of what was being written, if that is known.
    """
    needed = f"{readable_bytes(needed_bytes)} needed, " if needed_bytes is not None else ""
    reason = " ".join(reason.split())[-200:]
    error = StorageError(f"Cannot write {folder}: {reason}; {needed}{_free_space(folder)}. {_FULL_ADVICE}")
    error.errno = errno.ENOSPC
    return error


@contextmanager
def storage_errors(folder: Path, *, only_under: Path | None = None, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn what the operating system refuses into :class:`StorageError`, also where native code says it in its words.

    Args:
        folder: What was being written, for the message.
        only_under: For code of others: only a full disk, and for paths in here a refused permission or a file in the
            way, are ours. Their ``PermissionError`` may be about a compiler that is not executable.
        needed_bytes: Size of what is written, if that is known, for the message.
    """
    try:
        yield
    except QEffError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise _storage_error(folder, error, _FULL_ADVICE) from error
        if error.errno is None and says_full(str(error)):
            raise full_disk(folder, str(error), needed_bytes) from error
        if error.errno is None:  # filelock's, which waited
            raise
        is_ours = is_denied(error) or error.errno in _IN_THE_WAY
        if only_under is None or (is_ours and _is_under(error.filename, only_under)):
            raise _storage_error(folder, error, _DENIED_ADVICE) from error
        raise
    except Exception as error:
        why = _full_reason(error)
        if why is None:
            raise
        raise full_disk(folder, why, needed_bytes) from error


def _full_reason(error: BaseException | None) -> str | None:
    """What ``error`` says of a full disk, or the error that it came of: torch's writer fails again as it closes."""
    while error is not None:
        if says_full(str(error)) or (isinstance(error, OSError) and error.errno in _FULL):
            return str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def is_denied(error: OSError) -> bool:
    """Whether an error says that a folder may not be written."""
    return error.errno in _DENIED


_FULL_ADVICE = (
    "Free some space (`qefficient cache prune`), raise `ulimit -f` if one is set, "
    "or choose a larger disk: set QEFF_HOME, or pass another folder."
)
_DENIED_ADVICE = "Set QEFF_HOME to a folder that you can write, or pass another folder."


def _storage_error(folder: Path, cause: OSError, advice: str) -> StorageError:
    elsewhere = cause.filename is not None and not _is_under(cause.filename, folder.parent)
    where = Path(os.fsdecode(cause.filename)) if elsewhere else folder
    error = StorageError(f"Cannot write {where}: {cause.strerror}; {_free_space(where)}. {advice}")
    error.errno = cause.errno  # a filename too would make OSError print these two instead of the message
    return error


def _is_under(filename: object, folder: Path) -> bool:
    return isinstance(filename, str | os.PathLike) and Path(filename).is_relative_to(folder)


def has_room(folder: Path) -> bool:
    """Whether a small file can be written: a program that failed may not have had the room to say why."""
    probe = folder / f".{secrets.token_hex(6)}.probe"
    try:
        probe.write_bytes(bytes(1 << 16))
    except OSError as error:
        return error.errno not in _FULL
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return True


def check_free_space(folder: Path, needed_bytes: int, what: str) -> None:
    """
    Args:
        folder: where it is to be written.
        needed_bytes: its size.
        what: its name for the message, a plural.

    Raises:
        StorageError: the disk has no room for it.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes * 1.1:
        raise StorageError(
            f"{folder.parent} has {readable_bytes(free_bytes)} free; {what} need {readable_bytes(needed_bytes)}. "
            f"Free space, run `qefficient cache prune`, or set QEFF_HOME (now {home()}) to a larger disk."
        )


def _free_space(folder: Path) -> str:
    for existing in (folder, *folder.parents):
        try:
            return f"{readable_bytes(shutil.disk_usage(existing).free)} free on that disk"
        except OSError:
            continue
    return "free space unknown"


def readable_bytes(num_bytes: int) -> str:
    """``1234567`` -> ``'1.2 MB'``."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
