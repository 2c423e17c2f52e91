"""``qefficient inspect``: what a model is made of, and how each target would run it. Nothing is exported."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from QEfficient.cloud.card import Card, card_flags, required
from QEfficient.cloud.flags import JSON, VERBOSE, flags, option_flags
from QEfficient.cloud.terminal import OTHER, Command, Output, run
from QEfficient.errors import UnsupportedModel
from QEfficient.options import CausalLMCompileOptions
from QEfficient.progress import stage
from QEfficient.targets import TARGETS, Target

if TYPE_CHECKING:
    from QEfficient.base.modeling_qeff import QEFFBaseModel
    from QEfficient.transformers.state import StateSpec

STATE_VALUE_BYTES = 2
"""State is counted in 16-bit values; a target that compresses it needs less."""


@click.command("inspect", cls=Command)
@card_flags
@option_flags("options", OTHER, CausalLMCompileOptions, only=("ctx_len",))
@flags(JSON, VERBOSE)
@click.pass_obj
def command(out: Output, /, *, card: Card | None, options: dict[str, Any], as_json: bool) -> None:
    """Say what a model is made of and how each target would run it.

    Parameters, layers by the kind of state they keep, and for each target the lowering it gets and why faster ones
    cannot express the model.
    """
    chosen = required(card)
    ctx_len = CausalLMCompileOptions.parse(options).ctx_len
    model = chosen.load()
    with stage("Inspecting", model.model_name):
        found = {"card": chosen.name, **describe(model, ctx_len)}
    if as_json:
        return out.json(found)
    out.pairs(_lines(found))
    out.write()
    rows = [[name, target["lowering"] or "none", _reasons(target)] for name, target in found["targets"].items()]
    return out.table(["Target", "Lowering", "Remarks"], rows)


def describe(model: QEFFBaseModel, ctx_len: int) -> dict[str, Any]:
    """What ``--json`` prints, less the card."""
    from QEfficient.transformers.transform import max_positions

    parameters = list(model.model.parameters())
    return {
        "architecture": model.model_name,
        "task": model.task,
        "num_parameters": sum(p.numel() for p in parameters),
        "weights_bytes": sum(p.numel() * p.element_size() for p in parameters),
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in parameters}),
        "max_positions": max_positions(model.config),
        **(_state(model, ctx_len) if model.task == "causal_lm" else {}),
        "targets": {name: _on_target(model, target) for name, target in TARGETS.items()},
    }


def _state(model: QEFFBaseModel, ctx_len: int) -> dict[str, Any]:
    from QEfficient.transformers.state_discovery import state_specs

    try:
        specs = state_specs(model.model)
    except UnsupportedModel as error:
        return {"layers": None, "why_no_layers": str(error), "state": None}
    counted = Counter(specs)
    layers = [{"num_layers": count, **_spec(spec)} for spec, count in counted.items()]
    return {
        "layers": layers,
        "state": {
            "value_bytes": STATE_VALUE_BYTES,
            "bytes_per_token": sum(map(_token_bytes, specs)),
            "ctx_len": ctx_len,
            "bytes_per_slot": sum(_token_bytes(spec) * spec.num_slots(ctx_len) for spec in specs),
        },
    }


def _spec(spec: StateSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in ("kind", "num_heads", "key_dim", "value_dim", "window")}


def _token_bytes(spec: StateSpec) -> int:
    return spec.num_heads * (spec.key_dim + spec.value_dim) * STATE_VALUE_BYTES


def _on_target(model: QEFFBaseModel, target: Target) -> dict[str, Any]:
    unavailable = target.why_unavailable()
    if model.task != "causal_lm":
        return {"lowering": model.task, "refused": {}, "unavailable": unavailable}
    from QEfficient.transformers.lowering import choose_lowering

    try:
        choice = choose_lowering(model.model, target)
    except UnsupportedModel as error:
        return {"lowering": None, "refused": {"all": str(error)}, "unavailable": unavailable}
    return {"lowering": choice.lowering, "refused": choice.refused, "unavailable": unavailable}


def _reasons(target: dict[str, Any]) -> str:
    refused = [f"not {name}: {reason}" if name != "all" else reason for name, reason in target["refused"].items()]
    here = [f"not on this machine: {target['unavailable']}"] if target["unavailable"] else []
    return "; ".join([*refused, *here])


def _lines(found: dict[str, Any]) -> dict[str, str]:
    from QEfficient.base.files import readable_bytes

    lines = {
        "Architecture": found["architecture"],
        "Task": found["task"],
        "Parameters": f"{found['num_parameters']:,}",
        "Weights": f"{readable_bytes(found['weights_bytes'])} in {', '.join(found['dtypes'])}",
        "Positions": "no limit" if found["max_positions"] is None else f"{found['max_positions']:,}",
    }
    if "layers" in found:
        lines["Layers"] = "; ".join(map(_layer_line, found["layers"] or ())) or found["why_no_layers"]
    if state := found.get("state"):
        lines["State"] = (
            f"{readable_bytes(state['bytes_per_token'])} a token, {readable_bytes(state['bytes_per_slot'])} a slot of "
            f"{state['ctx_len']} tokens (in {8 * state['value_bytes']}-bit values)"
        )
    return lines


def _layer_line(layer: dict[str, Any]) -> str:
    window = f" of {layer['window']} tokens" if layer["window"] is not None else ""
    dims = (
        f"{layer['key_dim']}" if layer["key_dim"] == layer["value_dim"] else f"{layer['key_dim']}/{layer['value_dim']}"
    )
    return f"{layer['num_layers']} {layer['kind']}{window} ({layer['num_heads']} heads of {dims})"


if __name__ == "__main__":
    run(command)
