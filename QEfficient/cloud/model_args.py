"""The model that a command works on, and how to compile it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import wraps
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from QEfficient.cloud.click_options import (
    CARD_ONLY,
    DeviceGroup,
    Flag,
    Function,
    as_flag,
    flags,
    option_flags,
    with_device_group,
)
from QEfficient.cloud.completion import complete_path
from QEfficient.cloud.terminal import note
from QEfficient.errors import OptionError, TargetUnavailable
from QEfficient.options import CausalLMCompileOptions
from QEfficient.progress import stage
from QEfficient.qaic_config import QaicConfig
from QEfficient.targets import choose_target
from QEfficient.tasks import TASKS

if TYPE_CHECKING:
    from QEfficient.base.modeling_qeff import QEFFBaseModel

_SECTION = "Model"
_OPTION_CLASSES = tuple(
    dict.fromkeys(
        task.options for task in sorted(TASKS.values(), key=lambda task: (len(task.options.__mro__), task.name))
    )
)
"""What is general first: of a flag that several have, the help is that of the first."""

_OF_ANY_REPOSITORY = ("cache_dir", "token", "local_files_only")
"""Flags that hold for an adapter's repository too; the revision is the model's."""


_MAKERS = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors")
"""What loads and exports models, and is not needed where packages run."""


def check_importable() -> None:
    """
    Raises:
        TargetUnavailable: a library that makes packages is not installed.
    """
    missing = [name for name in _MAKERS if find_spec(name) is None]
    if missing:
        raise TargetUnavailable(
            f"Loading a model needs {', '.join(missing)}, which this installation for running packages does not have: "
            "pip install -c constraints.txt torch, then pip install -c constraints.txt . from the repository. "
            "'qefficient execute PACKAGE' runs what was compiled elsewhere."
        )


@dataclass(frozen=True)
class ModelSource:
    """A model id on the Hugging Face Hub or a local folder, and how to load it."""

    name: str
    load_options: dict[str, Any] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Names and folders of adapters, of which prompts select one."""

    def load(self) -> QEFFBaseModel:
        """The model, in the class that its config selects. Raises as ``from_pretrained``, and as ``load_adapter``."""
        with stage("Importing", "PyTorch and transformers"):
            check_importable()
            from transformers.utils import logging

            from QEfficient.transformers.models.common_loader import QEFFCommonLoader
        logging.disable_progress_bar()  # it would draw over ours
        if not self.adapters:
            return QEFFCommonLoader.from_pretrained(self.name, **self.load_options)
        from QEfficient.peft.lora.auto import QEFFAutoLoraModelForCausalLM

        model = QEFFAutoLoraModelForCausalLM.from_pretrained(self.name, **self.load_options)
        of_hub = {name: value for name, value in self.load_options.items() if name in _OF_ANY_REPOSITORY}
        for name, folder in self.adapters.items():
            model.load_adapter(folder, name, **of_hub)
        return model


def check_options(model: QEFFBaseModel, compile_options: Mapping[str, Any]) -> None:
    """
    Raises:
        OptionError: an option belongs to models of another task.
    """
    known = {option.name for option in fields(model.options_class)}
    for name in compile_options:
        if name not in known:
            raise OptionError(f"{as_flag(name)} is not for {model.model_name}, which is {TASKS[model.task].kind}.")


def model_flags(function: Function) -> Callable[..., Any]:
    """Give a command ``MODEL`` and the flags that say how to load it, as its argument ``source``."""
    return click.argument("model", required=False, shell_complete=complete_path)(named_model_flags(function))


def named_model_flags(function: Function) -> Callable[..., Any]:
    """:func:`model_flags` of a command whose arguments are something else: ``--model-name`` names the model."""

    @wraps(function)
    def command(
        *args: Any, model_name: str | None, local_model_dir: str | None, model: str | None = None, **params: Any
    ) -> Any:
        flag_values = {name: params.pop(name) for name in _LOAD_FLAGS}
        load_options = {name: value for name, value in flag_values.items() if value not in (None, False)}
        return function(*args, source=_source(model, model_name, local_model_dir, load_options), **params)

    return flags(*_NAME_FLAGS, *_LOAD_FLAGS.values())(command)


def _source(
    model: str | None, model_name: str | None, local_model_dir: str | None, load_options: dict[str, Any]
) -> ModelSource | None:
    if model is not None and model_name is not None and model != model_name:
        raise click.UsageError(f"Two models: '{model}' and --model-name '{model_name}'.", click.get_current_context())
    name = local_model_dir or model_name or model
    return ModelSource(name, load_options) if name is not None else None


def required(source: ModelSource | None, adapters: Mapping[str, str] | None = None) -> ModelSource:
    """
    Raises:
        click.UsageError: the command line names no model.
    """
    if source is None:
        raise click.UsageError(
            "Which model? Give a model id of the Hub, a folder, or a GGUF file.", click.get_current_context()
        )
    return replace(source, adapters=adapters or {})


_NAME_FLAGS = (
    Flag(["--model-name"], section=_SECTION, metavar="MODEL", help="The same as MODEL."),
    Flag(["--local-model-dir"], section=_SECTION, metavar="DIR", help="A folder to load instead of MODEL."),
)
_LOAD_FLAGS = {
    "revision": Flag(["--revision"], section=_SECTION, metavar="NAME", help="Branch, tag or commit of the repository."),
    "cache_dir": Flag(["--cache-dir"], section=_SECTION, metavar="DIR", help="Where files of the Hub are cached."),
    "token": Flag(["token", "--token", "--hf-token"], section=_SECTION, metavar="TOKEN", help="For gated models."),
    "local_files_only": Flag(["--local-files-only"], section=_SECTION, is_flag=True, help="Download nothing."),
    "gguf_file": Flag(
        ["--gguf-file"], section=_SECTION, metavar="NAME", help="A GGUF file of the repository, with its suffix."
    ),
    "trust_remote_code": Flag(
        ["--trust-remote-code"], section=_SECTION, is_flag=True, help="Allow the repository's Python files to run."
    ),
    "pooling": Flag(
        ["--pooling"],
        section=_SECTION,
        type=click.Choice(["auto", "none", "mean", "max", "cls", "last", "weightedmean", "mean_sqrt_len_tokens"]),
        help="How an encoder pools hidden states into one vector per text; none: not at all. Default: auto, as the "
        "folder's modules.json says, else none.",
    ),
}
_DEVICE_GROUP = Flag(
    ["--device-group"],
    section=CARD_ONLY,
    type=DeviceGroup(),
    metavar="[N,N]",
    help="Device numbers of the cards to use, as in [0,1]; as many as --num-devices.",
)


def read_adapters(values: Sequence[str]) -> dict[str, str]:
    """Names and folders of ``--adapter NAME=FOLDER`` flags.

    Raises:
        OptionError: one has another form, or a name is there twice.
    """
    adapters: dict[str, str] = {}
    for value in values:
        name, equals, folder = value.partition("=")
        if not (name and equals and folder):
            raise OptionError(f"--adapter {value}: expected NAME=FOLDER, or NAME and a repository of the Hub.")
        if name in adapters:
            raise OptionError(f"--adapter: the name '{name}' is there twice.")
        adapters[name] = folder
    return adapters


ADAPTER = Flag(
    ["--adapter"],
    section=_SECTION,
    multiple=True,
    metavar="NAME=FOLDER",
    help="A LoRA adapter to put into the package, under a name for --use-adapter; repeatable.",
)
_NO_EFFECT = {
    "dynamo": Flag(["--dynamo"], is_flag=True, hidden=True),
    "custom_io_file_path": Flag(["--custom-io-file-path"], hidden=True),
}
"""Upstream's flags for its exporter."""
_CCL = Flag(
    ["ccl_enabled", "--ccl-enabled"],
    section="Compile options",
    is_flag=True,
    help="Compile for several context lengths up to --ctx-len, unless --comp-ctx-lengths-* list them (card only).",
)


def compile_flags(function: Function) -> Callable[..., Any]:
    """Give a command a flag for each compile option, as its argument ``compile_options``."""
    return compile_flags_or()(function)


def compile_flags_or(*others: str) -> Callable[[Function], Callable[..., Any]]:
    """:func:`compile_flags` of a command whose ``--target`` may name something else that runs a model."""
    return lambda function: _with_compile_flags(function, others)


def _with_compile_flags(function: Function, others: tuple[str, ...]) -> Callable[..., Any]:
    @wraps(function)
    def command(
        *args: Any, device_group: list[int] | None, ccl_enabled: bool, compile_options: dict[str, Any], **params: Any
    ) -> Any:
        for name in _NO_EFFECT:
            if params.pop(name):
                note(f"warning: {as_flag(name)}: no effect: this library exports differently.")
        options = with_device_group(compile_options, device_group)
        if ccl_enabled:
            config = QaicConfig(ccl_enabled=True)
            options = {**config.compile_defaults(options.get("ctx_len", CausalLMCompileOptions().ctx_len)), **options}
        if options.get("target") not in others:
            _check_early(options)
        return function(*args, compile_options=options, **params)

    return flags(_DEVICE_GROUP, _CCL, *_NO_EFFECT.values())(
        option_flags("compile_options", "Compile options", *_OPTION_CLASSES)(command)
    )


def _check_early(values: Mapping[str, Any]) -> None:
    """Report errors that do not depend on the model, before it is downloaded and loaded."""
    parsed = [
        cls.parse({option.name: values[option.name] for option in fields(cls) if option.name in values})
        for cls in _OPTION_CLASSES
    ]
    target = choose_target(values.get("target"), is_dry_run=bool(values.get("dry_run")))
    for options in parsed:
        known = {option.name for option in fields(options)}
        for name in sorted(known & values.keys()):
            if (why := target.refusal(type(options), name)) is not None:
                raise OptionError(f"{as_flag(name)}: {why}.")
