"""A package's folder that also answers to the keys of upstream's dictionary of QPCs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PosixPath

from QEfficient.compile.qpc import QPC_FOLDER

_UPSTREAM = {"language": "lang"}
_KEY = "_qpc_path"


class PackagePath(PosixPath):
    """The folder of a package with several graphs.

    ``path["vision_qpc_path"]`` and ``path["lang_qpc_path"]`` are the folders that ``QAICInferenceSession`` opens, as in
    what upstream's ``compile`` returns; a package for ``cpu`` has none.
    """

    def keys(self) -> list[str]:
        """Upstream's keys, of the graphs that are compiled for a card."""
        return [*self._qpcs()]

    def get(self, key: str, default: Path | None = None) -> Path | None:
        """The folder of a QPC; ``default`` where there is none of this name."""
        return self._qpcs().get(key, default)

    def __getitem__(self, key: str) -> Path:
        qpcs = self._qpcs()
        if key not in qpcs:
            raise KeyError(f"{key}: {self} has {', '.join(qpcs) or 'no QPC: it was not compiled for a card'}.")
        return qpcs[key]

    def __contains__(self, key: object) -> bool:
        return key in self._qpcs()

    def __iter__(self) -> Iterator[str]:
        return iter(self._qpcs())

    def _qpcs(self) -> dict[str, Path]:
        folders = sorted(Path(self).glob(f"*/{QPC_FOLDER}"))
        return {_UPSTREAM.get(folder.parent.name, folder.parent.name) + _KEY: folder for folder in folders}
