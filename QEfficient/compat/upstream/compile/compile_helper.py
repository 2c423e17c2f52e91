"""The compiling function under upstream's path."""

from QEfficient.compat.functional import compile
from QEfficient.compat.moved import names_of

__all__ = ["compile"]

__getattr__ = names_of("QEfficient.compile.compile_helper")
