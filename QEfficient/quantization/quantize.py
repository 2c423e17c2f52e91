"""From a checkpoint to a quantised one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from QEfficient.errors import OptionError, UnsupportedModel
from QEfficient.generation.prompts import read_text
from QEfficient.progress import stage
from QEfficient.quantization.checkpoint import Recipe, write_checkpoint
from QEfficient.quantization.options import QuantizeOptions
from QEfficient.quantization.report import LayerError, QuantizationReport, layer_error
from QEfficient.quantization.rounding import Rounded, round_weight
from QEfficient.quantization.schemes import Scheme, scheme_of
from QEfficient.quantization.selection import Selection, select
from QEfficient.store.files import user_path
from QEfficient.store.leftovers import sweep
from QEfficient.store.publish import check_empty, publish_files, recover
from QEfficient.tasks import auto_class_for_config
from QEfficient.transformers.checkpoint import load as loading
from QEfficient.transformers.checkpoint.files import quantization, read_config
from QEfficient.transformers.checkpoint.from_checkpoint import is_unread
from QEfficient.transformers.checkpoint.weight_files import WeightFiles
from QEfficient.transformers.quantizers.auto import read_scheme
from QEfficient.verify.perplexity import PerplexityReport, check_not_empty

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from QEfficient.quantization.calibration import Calibrated

PathLike = str | os.PathLike[str]
_HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")


def quantize(
    pretrained_model_name_or_path: PathLike,
    output_dir: PathLike,
    *,
    ignore: Sequence[str] = (),
    calibration: PathLike | None = None,
    eval_text: PathLike | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> QuantizationReport:
    """Write a quantised checkpoint, in the layout of compressed-tensors.

    Weights of linear layers are quantised; the output head, embeddings and all else stay. Rounding to nearest reads
    and writes one tensor at a time; ``awq`` and ``gptq`` hold the model in memory, in float32.

    Args:
        pretrained_model_name_or_path: a model on the Hub or a local folder, not quantised yet.
        output_dir: a folder that is not there yet, or empty.
        ignore: patterns of linear modules that stay, such as ``"*.down_proj"``.
        calibration: a file with text that is like what the model will read; for ``awq`` and ``gptq``.
        eval_text: a file with text to measure perplexity on, before and after.
        trust_remote_code: allow the checkpoint's Python files to run.
        options: those of :class:`~QEfficient.quantization.options.QuantizeOptions`; and ``revision``, ``cache_dir``,
            ``token``, ``local_files_only`` as in ``from_pretrained``.

    Raises:
        OptionError: an unknown or contradictory option, a pattern that matches nothing, or a text that cannot be used.
        UnsupportedModel: the checkpoint is quantised already, has no linear layers, or the format is not written.
        ArtifactError: there is something in ``output_dir``.
        CheckpointError: the checkpoint cannot be used; see ``from_pretrained``.
    """
    hub = {name: options.pop(name) for name in _HUB_OPTIONS if name in options}
    chosen = QuantizeOptions.parse(options, beside=("ignore", "calibration", "eval_text", "output_dir", *_HUB_OPTIONS))
    loading.check_options({**hub, "trust_remote_code": trust_remote_code})
    texts = _Texts.read(chosen, calibration, eval_text)
    folder = Path(os.path.realpath(user_path(output_dir, "output_dir")))
    check_empty(folder)
    with stage("Loading", str(pretrained_model_name_or_path)):
        source = _Source.open(loading.resolve(pretrained_model_name_or_path, **hub), trust_remote_code)
    return _Job(source, folder, chosen, scheme_of(chosen), texts).run(list(ignore))


class _Texts:
    """The texts of a call, read before a model is."""

    def __init__(self, calibration: str | None, evaluation: str | None):
        self.calibration = calibration
        self.evaluation = evaluation

    @classmethod
    def read(cls, options: QuantizeOptions, calibration: PathLike | None, evaluation: PathLike | None) -> _Texts:
        """
        Raises:
            OptionError: a file cannot be read, is empty, is missing for the method, or has no use.
        """
        if (calibration is None) != (options.method == "rtn"):
            needs = "needs no calibration text" if calibration is not None else "needs a calibration text"
            raise OptionError(f"method='{options.method}' {needs}.")
        return cls(_text(calibration, "The calibration text"), _text(evaluation, "The text to evaluate"))


def _text(file: PathLike | None, what: str) -> str | None:
    if file is None:
        return None
    text = read_text(file, what)
    check_not_empty(text)
    return text


class _Source:
    """The dense checkpoint."""

    def __init__(self, folder: Path, files: WeightFiles, auto_class: Any, trust_remote_code: bool):
        self.folder, self.files, self.auto_class = folder, files, auto_class
        self._trust_remote_code = trust_remote_code

    @classmethod
    def open(cls, folder: Path, trust_remote_code: bool) -> _Source:
        """
        Raises:
            UnsupportedModel: it is quantised already.
            CheckpointError: it cannot be used.
        """
        files = loading.check_safe(folder, trust_remote_code)
        if (method := quantized_as(folder)) is not None:
            raise UnsupportedModel(
                f"{folder} is quantised already ('{method}'): rounding twice loses more than the format does. Give the "
                "model's original checkpoint."
            )
        task = auto_class_for_config(loading.load_config(folder, trust_remote_code))
        return cls(folder, files, task.hf_auto_class(), trust_remote_code)

    def skeleton(self) -> PreTrainedModel:
        """The model, its parameters unread."""
        model: PreTrainedModel = loading.load_skeleton(self.auto_class, self.folder, self._trust_remote_code)
        if not is_unread(model):
            raise UnsupportedModel(
                f"{self.folder}: transformers computes with the weights of {type(model).__name__} while it loads them, "
                "so that stored tensors are not those of its layers. Compile it with weight_format instead."
            )
        return model

    def in_float32(self, folder: Path | None = None) -> PreTrainedModel:
        """The model in memory; ``folder``: another checkpoint of it."""
        loaded: Any = loading.load_model(self.auto_class, folder or self.folder, self._trust_remote_code)
        model: PreTrainedModel = loaded.float()
        return model

    def encode(self, text: str) -> list[int]:
        """Token ids of a text.

        Raises:
            OptionError: the checkpoint has no tokenizer.
        """
        tokenizer = loading.load_tokenizer(self.folder, self._trust_remote_code)
        if tokenizer is None:
            raise OptionError(f"{self.folder} has no tokenizer, so no text can be read.")
        ids: list[int] = tokenizer(text)["input_ids"]
        return ids


def quantized_as(folder: Path) -> str | None:
    """How a checkpoint is quantised; None if it is not."""
    scheme = read_scheme(folder)
    return None if scheme is None else quantization(read_config(folder)) or type(scheme).__name__.lower()


class _Job:
    """One call."""

    def __init__(self, source: _Source, folder: Path, options: QuantizeOptions, scheme: Scheme, texts: _Texts):
        self._source, self._folder, self._options = source, folder, options
        self._scheme, self._texts = scheme, texts
        self._errors: list[LayerError] = []

    def run(self, ignore: list[str]) -> QuantizationReport:
        """Everything, in order."""
        skeleton = self._source.skeleton()
        selection = select(skeleton, ignore, with_head=self._options.head, with_experts=not self._options.keep_experts)
        for name, stored in selection.weights.items():
            self._scheme.check(name, stored.tensor.shape[1])
        self._check_causal()
        before = self._perplexity(None)
        recipe = self._recipe(skeleton, selection)
        sizes: list[int] = []
        sweep(recover)
        publish_files(self._folder, lambda folder: sizes.append(write_checkpoint(self._source.files, folder, recipe)))
        order = {name: place for place, name in enumerate(selection.weights)}
        report = QuantizationReport(
            folder=str(self._folder),
            format=self._options.format,
            method=self._options.method,
            layers=sorted(self._errors, key=lambda layer: order[layer.name]),
            num_kept=len(selection.ignored),
            bytes_before=self._source.files.num_bytes,
            bytes_after=sizes[0],
        )
        after = self._perplexity(self._folder)
        return report if before is None or after is None else report.with_perplexity(before, after)

    def _check_causal(self) -> None:
        from transformers import AutoModelForCausalLM

        needs = self._texts.calibration is not None or self._texts.evaluation is not None
        if needs and self._source.auto_class is not AutoModelForCausalLM:
            raise OptionError(
                f"{self._source.folder} is not a causal language model: calibration and perplexity are for those. Use "
                "method='rtn' without eval_text."
            )

    def _perplexity(self, folder: Path | None) -> PerplexityReport | None:
        if self._texts.evaluation is None:
            return None
        from QEfficient.verify.perplexity import measure
        from QEfficient.verify.reference import fitting_len, model_scores

        model = self._source.in_float32(folder)
        ids = self._source.encode(self._texts.evaluation)
        return measure(model_scores(model), ids, ctx_len=fitting_len(model, self._options.ctx_len))

    def _recipe(self, skeleton: PreTrainedModel, selection: Selection) -> Recipe:
        recipe = Recipe(
            scheme=self._scheme,
            round=self._round,
            chosen={stored.name: name for name, stored in selection.weights.items()},
            replaced={},
            ignored=selection.ignored,
            max_shard_bytes=self._options.max_shard_bytes,
        )
        if self._texts.calibration is None:
            return recipe
        calibrated = self._calibrate(skeleton, selection, self._texts.calibration)
        self._errors = calibrated.errors

        def rounded(name: str, weight: torch.Tensor) -> Rounded:
            return calibrated.rounded[name] if name in calibrated.rounded else self._round(name, weight)

        return replace(recipe, round=rounded, replaced=calibrated.replaced)

    def _calibrate(self, skeleton: PreTrainedModel, selection: Selection, text: str) -> Calibrated:
        from QEfficient.quantization.calibration import calibrate

        return calibrate(skeleton, selection, self._source.encode(text), self._options, self._scheme)

    def _round(self, name: str, weight: torch.Tensor) -> Rounded:
        rounded = round_weight(weight, self._scheme, weight.dtype)
        self._errors.append(layer_error(name, "rtn", weight, rounded))
        return rounded
