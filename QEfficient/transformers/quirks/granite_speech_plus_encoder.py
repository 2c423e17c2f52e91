"""Granite Speech Plus: as Granite Speech."""

from QEfficient.transformers.quirks.granite_speech_encoder import QUIRK

__all__ = ["QUIRK"]
