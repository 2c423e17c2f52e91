"""The exporting function under upstream's path."""

from QEfficient.compat.functional import export, qualcomm_efficient_converter

__all__ = ["export", "qualcomm_efficient_converter"]
