"""Creates a folder like the SDK's, so that software for the card runs on the simulator unchanged.

exec/qaic-compile            the compiler
tools/qaic-util              the query tool
dev/lib/<machine>/qaicrt.py  the runtime
dev/python/QAicApi_pb2.py    the descriptors' classes
versions/{apps,platform}.xml
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from QEfficient.errors import StorageError
from QEfficient.simulator.versions import DEFAULT_VERSION, parse_version
from QEfficient.store.files import new_sibling, storage_errors, user_path
from QEfficient.store.leftovers import noted

_LAUNCHER = """#!/bin/sh
exec {python} -P -c 'import sys
sys.path.insert(0, sys.argv.pop(1))
from QEfficient.simulator.{module} import main
sys.exit(main({arguments}))' {package} "$@"
"""
_RUNTIME = '''"""The runtime of simulated cards."""

from QEfficient.simulator.runtime.qaicrt import *  # noqa: F403
'''
_DESCRIPTORS = '''"""The descriptors of inputs and outputs."""

from QEfficient.simulator.runtime.descriptors import API_CONSTANTS, IoBinding, IoDesc, IoSet, IoShapes, TensorShape

globals().update(API_CONSTANTS)
'''
_VERSIONS = """<?xml version="1.0" encoding="UTF-8"?>
<versions>
  <ci_build>
    <base_version>{base}</base_version>
    <build_id>{build}</build_id>
  </ci_build>
</versions>
"""


def install(root: Path, version: str = DEFAULT_VERSION) -> Path:
    """Write the tree at ``root``; an existing equal tree is left unchanged.

    Args:
        root: the folder to create, as ``/opt/qti-aic`` of the real SDK; parents are created too.
        version: of the SDK; before 1.22 the compiler does not know named specializations.

    Returns:
        ``root``, absolute.

    Raises:
        OptionError: not a version.
        StorageError: ``root`` has other content, or cannot be written.
    """
    parse_version(version)
    root = user_path(root, "The folder of the SDK")
    files = _files(version)
    if _is_equal(root, files):
        return root
    temporary = new_sibling(root, "tmp")
    try:
        with storage_errors(root), noted(root):
            if root.exists() and not (root / "versions" / "apps.xml").is_file():
                raise StorageError(f"{root} exists and is no SDK: name a folder that does not exist.")
            for name, text in files.items():
                _write(temporary / name, text)
            _replace(temporary, root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


def _files(version: str) -> dict[str, str]:
    package = str(Path(__file__).resolve().parents[2])
    launcher = {"python": shlex.quote(sys.executable), "package": shlex.quote(package)}
    base, _, build = version.rpartition(".")
    versions = _VERSIONS.format(base=base, build=build)
    compile_arguments = f'sys.argv[1:], "{version}"'
    return {
        "exec/qaic-compile": _LAUNCHER.format(module="compiler.driver", arguments=compile_arguments, **launcher),
        "tools/qaic-util": _LAUNCHER.format(module="runtime.query", arguments="sys.argv[1:]", **launcher),
        f"dev/lib/{platform.machine()}/qaicrt.py": _RUNTIME,
        "dev/python/QAicApi_pb2.py": _DESCRIPTORS,
        "versions/apps.xml": versions,
        "versions/platform.xml": versions,
    }


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755 if text.startswith("#!") else 0o644)


def _is_equal(root: Path, files: dict[str, str]) -> bool:
    try:
        return all((root / name).read_text(encoding="utf-8") == text for name, text in files.items())
    except OSError:
        return False


def _replace(temporary: Path, root: Path) -> None:
    """Rename into place, replacing an older tree. Of two concurrent installations the later one wins."""
    old = new_sibling(root, "old")
    with suppress(FileNotFoundError):
        os.rename(root, old)
    os.rename(temporary, root)
    shutil.rmtree(old, ignore_errors=True)
