"""``qefficient inspect``: what a model is made of, and how each target would run it, from its config alone."""

from __future__ import annotations

from typing import Any

import click

from QEfficient.cloud.click_options import JSON, VERBOSE, flags, option_flags
from QEfficient.cloud.model_args import Card, card_flags, required
from QEfficient.cloud.stored_description import describe_card
from QEfficient.cloud.terminal import OTHER, Command, Output, run
from QEfficient.options import CausalLMCompileOptions, Options, Seq2SeqLMCompileOptions
from QEfficient.progress import stage

_LENS: dict[str, type[Options]] = {"ctx_len": CausalLMCompileOptions, "encoder_ctx_len": Seq2SeqLMCompileOptions}
"""Lengths that the size of a slot depends on, with the options that they are of."""


@click.command("inspect", cls=Command)
@card_flags
@option_flags("options", OTHER, *_LENS.values(), only=tuple(_LENS))
@flags(JSON, VERBOSE)
@click.pass_obj
def command(out: Output, /, *, card: Card | None, options: dict[str, Any], as_json: bool) -> None:
    """Say what a model is made of and how each target would run it.

    Parameters, layers by the kind of state they keep, and for each target the lowering it gets and why faster ones
    cannot express the model. No weights are needed, and none are downloaded.
    """
    chosen = required(card)
    lens = {name: _len(cls, name, options) for name, cls in _LENS.items()}
    with stage("Inspecting", chosen.name):
        found = {"card": chosen.name, **describe_card(chosen, lens)}
    if as_json:
        return out.json(found)
    out.pairs(_lines(found))
    out.write()
    rows = [[name, target["lowering"] or "none", _reasons(target)] for name, target in found["targets"].items()]
    return out.table(["Target", "Lowering", "Remarks"], rows)


def _len(cls: type[Options], name: str, given: dict[str, Any]) -> int:
    size: int = getattr(cls.parse({name: given[name]} if name in given else {}), name)
    return size


def _reasons(target: dict[str, Any]) -> str:
    refused = [f"not {name}: {reason}" if name != "all" else reason for name, reason in target["refused"].items()]
    here = [f"not on this machine: {target['unavailable']}"] if target["unavailable"] else []
    return "; ".join([*refused, *here])


def _lines(found: dict[str, Any]) -> dict[str, str]:
    lines = {
        "Architecture": found["architecture"],
        "Task": found["task"],
        "Parameters": f"{found['num_parameters']:,}",
        "Weights": _weights_line(found),
        "Positions": "no limit" if found["max_positions"] is None else f"{found['max_positions']:,}",
    }
    if found.get("recomputes"):
        lines["Layers"] = f"recompute every step: {found['recomputes']}"
    elif "layers" in found:
        lines["Layers"] = "; ".join(map(_layer_line, found["layers"] or ())) or found["why_no_layers"]
    if found.get("state"):
        lines["State"] = _state_line(found["state"])
    return lines


def _weights_line(found: dict[str, Any]) -> str:
    from QEfficient.store.files import readable_bytes

    if found["weights_bytes"] is None:
        return f"quantised ('{found['quantization']}'), no file here to tell how large"
    quantised = f", quantised ('{found['quantization']}')" if found["quantization"] else ""
    return f"{readable_bytes(found['weights_bytes'])} in {', '.join(found['dtypes'])}{quantised}"


def _layer_line(layer: dict[str, Any]) -> str:
    window = f" of {layer['window']} tokens" if layer["window"] is not None else ""
    held = _held(layer["tensors"])
    return f"{layer['num_layers']} {layer['kind']}{window}" + (f" ({held})" if held else "")


def _held(tensors: dict[str, list[int | str]]) -> str:
    """``tensors`` in a row of a state, those of keys and values by their heads."""
    parts = []
    if (key := tensors.get("past_key")) is not None:
        dims = [shape[-1] for shape in (key, tensors.get("past_value")) if shape is not None]
        parts.append(f"{key[1]} heads of {'/'.join(map(str, dict.fromkeys(dims)))}")
    others = {name: shape for name, shape in tensors.items() if name not in ("past_key", "past_value")}
    return ", ".join(parts + [f"{name} {' x '.join(map(str, shape[1:]))}" for name, shape in others.items()])


def _state_line(state: dict[str, Any]) -> str:
    from QEfficient.store.files import readable_bytes

    parts = []
    if state["bytes_per_token"]:
        parts.append(f"{readable_bytes(state['bytes_per_token'])} a token")
    if state["fixed_bytes_per_slot"]:
        parts.append(f"{readable_bytes(state['fixed_bytes_per_slot'])} whatever the length")
    read = ""
    if "encoder_ctx_len" in state:
        parts.append(f"{readable_bytes(state['bytes_per_encoder_token'])} a token of the text")
        read = f" and a text of {state['encoder_ctx_len']}"
    whole = f"{readable_bytes(state['bytes_per_slot'])} a slot of {state['ctx_len']} tokens{read}"
    return ", ".join([*parts, whole]) + f" (in {8 * state['value_bytes']}-bit values)"


if __name__ == "__main__":
    run(command)
