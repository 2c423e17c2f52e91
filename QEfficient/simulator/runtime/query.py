"""``qaic-util`` for simulated devices: ``-q`` lists them, ``-d`` chooses some, ``-j`` writes JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from QEfficient.errors import OptionError
from QEfficient.simulator.runtime.device_information import fields_of
from QEfficient.simulator.runtime.devices import machine

_USAGE = "Usage: qaic-util -q [-d <QID>]... [-j <file>]"


def main(argv: Sequence[str]) -> int:
    """Run the tool.

    Returns:
        The exit code; messages are on stderr.
    """
    try:
        device_ids, json_path = _parse(argv)
        described = {device_id: fields_of(device_id) for device_id in device_ids}
    except OptionError as error:
        print(error, file=sys.stderr)
        return 1
    if json_path is not None:
        listed = [{"QID": device_id, **fields} for device_id, fields in described.items()]
        json_path.write_text(json.dumps({"devices": listed}, indent=2), encoding="utf-8")
    for device_id, fields in described.items():
        print(f"QID {device_id}")
        for name, value in fields.items():
            print(f"\t{name}:{value}")
    return 0


def _parse(argv: Sequence[str]) -> tuple[list[int], Path | None]:
    present = list(range(machine().num_devices))
    chosen: list[int] = []
    json_path = None
    arguments = iter(argv)
    asks = False
    for argument in arguments:
        if argument in ("-q", "--query"):
            asks = True
        elif argument in ("-d", "--aic-device-id"):
            chosen.append(_device(next(arguments, ""), present))
        elif argument in ("-j", "--json"):
            json_path = Path(next(arguments, "") or "-")
        else:
            raise OptionError(f"Invalid option {argument}. {_USAGE}")
    if not asks:
        raise OptionError(_USAGE)
    return chosen or present, json_path


def _device(text: str, present: list[int]) -> int:
    if not text.isdecimal() or int(text) not in present:
        raise OptionError(f"There is no device {text!r}; expected one of {present}")
    return int(text)
