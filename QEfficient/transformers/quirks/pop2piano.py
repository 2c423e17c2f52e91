"""Pop2Piano: the row of the composer before the features, which its generate() puts there."""

from __future__ import annotations

from QEfficient.transformers.quirks import PrefixTable, Quirk

QUIRK = Quirk(
    prefix=PrefixTable(
        option="composer",
        weight="mel_conditioner.embedding.weight",
        names="composer_to_feature_token",
        default="composer1",
    )
)
