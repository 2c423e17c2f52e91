"""Errors of the simulated compiler for a command line or a graph."""

from __future__ import annotations

from QEfficient.errors import CompileError

JSON_TYPE_ERROR = 255
"""Exit code of the real compiler for a configuration whose JSON has the wrong types."""


class Rejected(CompileError):
    """The compiler would reject this; the message is what it prints."""

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code
