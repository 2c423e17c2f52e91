"""The lifecycle that every model shares. Importing it loads nothing; the field knows some of the library's public names
under this path too."""

import sys


def __getattr__(name: str) -> object:
    library = sys.modules[__name__.partition(".")[0]]
    if name.startswith("__") or name not in library.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(library, name)
