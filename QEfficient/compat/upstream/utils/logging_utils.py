"""The library's log under upstream's path."""

import logging

logger = logging.getLogger("QEfficient")


class QEFFLogger:
    """Gives parts of the log."""

    @staticmethod
    def get_logger(name: str | None = None) -> logging.Logger:
        """The library's log, or its part of a name."""
        return logger if name is None else logger.getChild(name)
