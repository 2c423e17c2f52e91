"""The loader under upstream's path."""

from QEfficient.transformers.models.common_loader import QEFFCommonLoader

__all__ = ["QEFFCommonLoader"]
