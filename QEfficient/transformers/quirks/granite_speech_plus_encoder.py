"""Granite Speech Plus: as Granite Speech."""

from QEfficient.transformers.quirks import Quirk
from QEfficient.transformers.quirks.granite_speech_encoder import attention_in_blocks, blocks_of_queries

QUIRK = Quirk(
    methods={
        "GraniteSpeechPlusConformerAttention.forward": attention_in_blocks,
        "GraniteSpeechPlusEncoderProjector.forward": blocks_of_queries,
    }
)
