"""Asks the SDK for cards."""

from __future__ import annotations


def get_available_device_id() -> list[int] | None:
    """The first card that is ready, in a list; None without SDK or card.

    Raises:
        TargetUnavailable: the SDK's query tool fails.
    """
    from QEfficient.compile.qaic_sdk import QaicSDK

    sdk = QaicSDK.find()
    ready = [] if sdk is None else [device.qid for device in sdk.devices() if device.status == "Ready"]
    return ready[:1] or None
