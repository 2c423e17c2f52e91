"""``qefficient inspect``: describes a model and how each target would run it, from its config alone."""

from __future__ import annotations

from typing import Any

import click

from QEfficient.cloud.click_options import JSON, LOGGING, flags, option_flags
from QEfficient.cloud.model_args import ModelSource, model_flags, required
from QEfficient.cloud.stored_description import describe_model
from QEfficient.cloud.terminal import OTHER, Command, Output, run
from QEfficient.options import CausalLMCompileOptions, Options, Seq2SeqLMCompileOptions
from QEfficient.progress import stage

_LENS: dict[str, type[Options]] = {"ctx_len": CausalLMCompileOptions, "encoder_ctx_len": Seq2SeqLMCompileOptions}
"""Lengths that the size of a slot depends on, and the options class of each."""


@click.command("inspect", cls=Command)
@model_flags
@option_flags("options", OTHER, *_LENS.values(), only=tuple(_LENS))
@flags(JSON, *LOGGING)
@click.pass_obj
def command(out: Output, /, *, source: ModelSource | None, options: dict[str, Any], as_json: bool) -> None:
    """Show a model's structure and how each target would run it.

    Parameters, layers by the kind of state they keep, and for each target the lowering it gets and why faster ones
    cannot express the model. No weights are needed, and none are downloaded.
    """
    chosen = required(source)
    lens = {name: _len(cls, name, options) for name, cls in _LENS.items()}
    with stage("Inspecting", chosen.name):
        description = {"model": chosen.name, **describe_model(chosen, lens)}
    if as_json:
        return out.json(description)
    out.pairs(_lines(description))
    out.write()
    rows = [[name, target["lowering"] or "none", _reasons(target)] for name, target in description["targets"].items()]
    return out.table(["Target", "Lowering", "Remarks"], rows)


def _len(cls: type[Options], name: str, options: dict[str, Any]) -> int:
    size: int = getattr(cls.parse({name: options[name]} if name in options else {}), name)
    return size


def _reasons(target: dict[str, Any]) -> str:
    refused = [f"not {name}: {reason}" if name != "all" else reason for name, reason in target["refused"].items()]
    here = [f"not on this machine: {target['unavailable']}"] if target["unavailable"] else []
    return "; ".join([*_weights_of(target), *refused, *here])


def _weights_of(target: dict[str, Any]) -> list[str]:
    """What becomes of quantised weights."""
    from QEfficient.store.files import readable_bytes

    if (weights := target.get("weights")) is None:
        return []
    counts = f"{weights['num_packed']} quantised stay packed, {weights['num_expanded']} are expanded"
    return [f"weights take {readable_bytes(weights['weights_bytes'])} ({counts})"]


def _lines(description: dict[str, Any]) -> dict[str, str]:
    lines = {
        "Architecture": description["architecture"],
        "Task": description["task"],
        "Parameters": f"{description['num_parameters']:,}",
        "Weights": _weights_line(description),
        "Positions": _positions_line(description),
    }
    if description.get("why_not_loaded"):
        lines["Cannot be loaded"] = description["why_not_loaded"]
    if description.get("recomputes"):
        lines["Layers"] = f"recompute every step: {description['recomputes']}"
    elif "layers" in description:
        lines["Layers"] = "; ".join(map(_layer_line, description["layers"] or ())) or description["why_no_layers"]
    if description.get("state"):
        lines["State"] = _state_line(description["state"])
    return lines


def _weights_line(description: dict[str, Any]) -> str:
    from QEfficient.store.files import readable_bytes

    if description["weights_bytes"] is None:
        return f"quantised ('{description['quantization']}'), and no local file tells the size"
    quantised = f", quantised ('{description['quantization']}')" if description["quantization"] else ""
    return f"{readable_bytes(description['weights_bytes'])} in {', '.join(description['dtypes'])}{quantised}"


def _positions_line(description: dict[str, Any]) -> str:
    names = {"max_positions": "", "max_encoder_positions": " of the text"}
    limits = {place: description[name] for name, place in names.items() if name in description}
    return ", ".join(f"{'no limit' if limit is None else f'{limit:,}'}{place}" for place, limit in limits.items())


def _layer_line(layer: dict[str, Any]) -> str:
    window = f" of {layer['window']} tokens" if layer["window"] is not None else ""
    shapes = _shapes(layer["tensors"])
    return f"{layer['num_layers']} {layer['kind']}{window}" + (f" ({shapes})" if shapes else "")


def _shapes(tensors: dict[str, list[int | str]]) -> str:
    """Shapes of the state's tensors per row; of keys and values, the heads and their sizes."""
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
        parts.append(f"{readable_bytes(state['bytes_per_token'])} per token")
    if state["fixed_bytes_per_slot"]:
        parts.append(f"{readable_bytes(state['fixed_bytes_per_slot'])} for any length")
    read = ""
    if "encoder_ctx_len" in state:
        parts.append(f"{readable_bytes(state['bytes_per_encoder_token'])} per token of the text")
        read = f" and a text of {state['encoder_ctx_len']}"
    whole = f"{readable_bytes(state['bytes_per_slot'])} per slot of {state['ctx_len']} tokens{read}"
    return ", ".join([*parts, whole]) + f" (in {8 * state['value_bytes']}-bit values)"


if __name__ == "__main__":
    run(command)
