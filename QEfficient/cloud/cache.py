"""``qefficient cache``: the store of exported graphs and compiled packages."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from QEfficient.cloud.click_options import JSON, LOGGING, Flag, flags
from QEfficient.cloud.model_args import ModelSource, check_options, compile_flags, model_flags, required
from QEfficient.cloud.terminal import Command, Output, note, run
from QEfficient.contract import PACKAGE
from QEfficient.errors import OptionError, nearest
from QEfficient.store.artifacts import ArtifactStore, Entry
from QEfficient.store.entries import stored_bytes
from QEfficient.store.files import readable_bytes, short_name

_KEY_LEN = 6
"""Characters of a key that name an entry at least."""
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_AGES = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@click.group("cache", context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
def command() -> None:
    """Manage the store of exported graphs and packages."""


@command.command("ls", cls=Command)
@flags(JSON, *LOGGING)
@click.pass_obj
def list_entries(out: Output, /, *, as_json: bool) -> None:
    """List what is in the store."""
    store = ArtifactStore()
    _show(out, store, store.entries(), as_json)
    if not as_json:
        note(f"{readable_bytes(stored_bytes(store.entries()))} in {store.root}")


@command.command("why", cls=Command)
@model_flags
@flags(JSON, *LOGGING)
@compile_flags
@click.pass_obj
def why(out: Output, /, *, source: ModelSource | None, as_json: bool, compile_options: dict[str, Any]) -> None:
    """Explain why compiling MODEL with these options would or would not reuse a package.

    Shows which inputs of the package differ from those of the nearest stored one.
    """
    model = required(source).load()
    check_options(model, compile_options)
    differences = ArtifactStore().why(PACKAGE, model.package_ingredients(**compile_options))
    if as_json:
        shown = [{"name": name, "stored": old, "asked": new} for name, (old, new) in (differences or {}).items()]
        return out.json({"is_stored": differences == {}, "nearest_differs_in": shown if differences else None})
    if differences is None:
        return out.write("The store has no package yet: this one would be compiled.")
    if not differences:
        return out.write("The package is in the store: nothing would be compiled.")
    out.write("The package would be compiled. Differences from the nearest package:")
    return out.table(["", "Stored", "Asked"], [[name, *map(_short, pair)] for name, pair in differences.items()])


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


@command.command("verify", cls=Command)
@flags(JSON, *LOGGING)
@click.pass_obj
def verify(out: Output, /, *, as_json: bool) -> int:
    """Check every entry; damaged ones are moved aside, and rebuilt when needed.

    The exit code is 1 if an entry is damaged.
    """
    store = ArtifactStore()
    entries = store.verify_all()
    damaged = [entry for entry in entries if entry.state != "stored"]
    if as_json:
        out.json({"root": str(store.root), "num_verified": len(entries), "damaged": [_described(e) for e in damaged]})
    else:
        for entry in damaged:
            out.write(f"damaged: {entry.problem}")
        out.write(f"{len(entries) - len(damaged)} of {len(entries)} entries are whole.")
    return 1 if damaged else 0


class _Size(click.ParamType):
    """``10GB`` to bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B?)", value.upper())
        if match is None:
            self.fail(f"{value!r} is not a size such as 500MB or 20GB", param, ctx)
        unit = match[2] if match[2].endswith("B") else f"{match[2]}B"
        return int(float(match[1]) * _UNITS[unit])


class _Age(click.ParamType):
    """``30d`` to a timedelta."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, timedelta):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", value.lower())
        if match is None:
            self.fail(f"{value!r} is not an age such as 12h, 30d or 4w", param, ctx)
        return float(match[1]) * _AGES[match[2]]


@command.command("rm", cls=Command)
@click.argument("names", nargs=-1, metavar="KEY|MODEL...")
@flags(Flag(["--dry-run"], is_flag=True, help="Only list what would be removed."), JSON, *LOGGING)
@click.pass_obj
def remove(out: Output, /, *, names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Remove entries by a prefix of their key, or all entries of a model by its name, as 'ls' shows them."""
    if not names:
        raise OptionError("Name what to remove: keys or models, as 'qefficient cache ls' shows them.")
    store = ArtifactStore()
    entries = store.entries()
    _check_names(names, entries)
    removed = store.remove([entry for entry in entries if _is_named(entry, names)], dry_run)
    _show(out, store, removed, as_json)
    if not as_json:
        _tell_removed(removed, dry_run)


def _check_names(names: Sequence[str], entries: Sequence[Entry]) -> None:
    """
    Raises:
        OptionError: a name is of no entry.
    """
    for name in names:
        if not any(_is_named(entry, [name]) for entry in entries):
            models = {_about(entry)[0] for entry in entries} - {""}
            raise OptionError(
                f"The store has no entry '{name}'.{nearest(name, models)} 'qefficient cache ls' lists all."
            )


def _is_named(entry: Entry, names: Sequence[str]) -> bool:
    model = _about(entry)[0]
    named = {*names, *(short_name(name) for name in names if Path(name).exists())}
    return model in named or any(len(name) >= _KEY_LEN and entry.key.startswith(name) for name in names)


def _tell_removed(removed: Sequence[Entry], dry_run: bool) -> None:
    if not removed:
        return note("Nothing to remove.")
    entries = f"{len(removed)} {'entry' if len(removed) == 1 else 'entries'}"
    return note(f"{'Would remove' if dry_run else 'Removed'} {entries}: {readable_bytes(stored_bytes(removed))}.")


_PRUNE_FLAGS = (
    Flag(
        ["--max-size"], type=_Size(), metavar="SIZE", help="Remove the least recently used entries until the rest fits."
    ),
    Flag(["--older-than"], type=_Age(), metavar="AGE", help="Remove entries unused for this long, such as 30d."),
    Flag(["--keep-damaged"], is_flag=True, help="Keep damaged entries and the quarantine for inspection."),
    Flag(["--dry-run"], is_flag=True, help="Only list what would be removed."),
)


@command.command("prune", cls=Command)
@flags(*_PRUNE_FLAGS, JSON, *LOGGING)
@click.pass_obj
def prune(
    out: Output,
    /,
    *,
    max_size: int | None,
    older_than: timedelta | None,
    keep_damaged: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Free disk space.

    Without flags this removes only unusable files: damaged entries, the quarantine and leftovers of killed builds.
    """
    store = ArtifactStore()
    removed = store.prune(max_bytes=max_size, older_than=older_than, damaged=not keep_damaged, dry_run=dry_run)
    _show(out, store, removed, as_json)
    if not as_json:
        _tell_removed(removed, dry_run)


def _show(out: Output, store: ArtifactStore, entries: Sequence[Entry], as_json: bool) -> None:
    if as_json:
        return out.json({"root": str(store.root), "entries": [_described(entry) for entry in entries]})
    if not entries:
        return None
    rows = [
        [e.key[:12], e.kind, *_about(e), e.state, readable_bytes(e.size_bytes), _ago(e.last_used)]
        for e in sorted(entries, key=lambda entry: entry.last_used, reverse=True)
    ]
    return out.table(["Key", "Kind", "Model", "Made for", "State", "Size", "Last used"], rows)


def _about(entry: Entry) -> tuple[str, str]:
    """The model, and the target, the lowering and the lengths that it was made for, as far as they are known."""
    if entry.artifact is None:
        return "", ""
    body = entry.artifact.manifest.body
    session = body.get("session", {})
    lengths = {
        "ctx_len": session.get("decoder", session).get("ctx_len"),
        "seq_len": session.get("encoder", session).get("inputs", {}).get("seq_lens"),
    }
    known = [str(body[name]) for name in ("target", "lowering") if name in body]
    known += [f"{name} {value}" for name, value in lengths.items() if value is not None]
    return entry.label.removesuffix(f" {entry.kind}"), ", ".join(known)


def _described(entry: Entry) -> dict[str, Any]:
    names = ("kind", "key", "label", "state", "size_bytes", "last_used", "problem")
    return {"path": str(entry.path), **{name: getattr(entry, name) for name in names}}


def _ago(when: float) -> str:
    seconds = max(0.0, time.time() - when)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


if __name__ == "__main__":
    run(command)
