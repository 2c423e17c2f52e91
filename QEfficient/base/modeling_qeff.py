"""The lifecycle that every model shares: load, transform, export, compile.

Works on plans, graphs and the store. Knows no model, no task and no target by name. Each stage runs the ones before it
when they are needed and takes from the store what is already there.
"""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from QEfficient.base.accepted_options import accepted, with_flags
from QEfficient.base.compilation import Compilation
from QEfficient.base.exported_graph import check_graph, graph_file, stored_ingredients
from QEfficient.base.load_options import LoadOptions
from QEfficient.base.open_package import PackageOwner
from QEfficient.base.plan_resolution import first_exportable
from QEfficient.compile.qaic_compiler import raw_flag_names
from QEfficient.contract import ONNX, PACKAGE, CompileJob, PackageBody, Plan, Specialization
from QEfficient.errors import CapacityError, ExportError, LifecycleError, OptionError
from QEfficient.option_docs import with_options
from QEfficient.options import CompileOptions, Options
from QEfficient.progress import long_stage, stage
from QEfficient.store.artifacts import Artifact, ArtifactStore, Build, Built, write_artifact
from QEfficient.store.digests import hash_file, json_safe
from QEfficient.store.files import check_free_space, list_files, short_name
from QEfficient.store.leftovers import scratch_folder
from QEfficient.store.source_version import source_version
from QEfficient.targets import TARGETS, Target, choose_target
from QEfficient.tasks import auto_class_for_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from QEfficient.transformers.checkpoint.source import WeightSource
    from QEfficient.transformers.lowering.cache_spec import StateSpec
    from QEfficient.transformers.lowering.select import LoweringChoice
    from QEfficient.transformers.tasks.graph_spec import TaskGraph

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
PlanT = TypeVar("PlanT", bound=Plan)
OptionsT = TypeVar("OptionsT", bound=CompileOptions)


_OF_COMPILERS = frozenset(
    {"compiler_options", "dry_run", "mdp_load_partition_config", "node_precision_info", "qnn_config"}
)
"""Options that no graph depends on, and that a package of others must not bring: files to read, flags."""


class _Transform:
    """``model.transform(**options)`` on a model of ours, and upstream's ``Class.transform(hf_model, form_factor)``."""

    def __get__(self, model: QEFFBaseModel | None, owner: type[QEFFBaseModel]) -> Callable[..., Any]:
        return owner.wrap if model is None else model.check_lowering


class QEFFBaseModel(PackageOwner, Generic[PlanT, OptionsT]):
    """A Hugging Face model on its way to a target.

    Attributes:
        tokenizer: the checkpoint's tokenizer, if it brings one; runs with what was changed about it since, and is put
            into packages. None after :meth:`from_package`: the package's runs.
        onnx_path: the exported graph, once there is one; of several, the first.
        qpc_path: the compiled package's folder, once there is one.
    """

    options_class: ClassVar[type[CompileOptions]]
    """Options of :meth:`compile`."""
    load_arguments: ClassVar[tuple[str, ...]] = ()
    """Arguments of ``__init__`` that :meth:`from_pretrained` passes on."""
    keeps_state: ClassVar[bool] = False
    """Whether a package keeps state between runs, which a lowering has to express."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Document ``compile`` with the options of the class."""
        super().__init_subclass__(**kwargs)
        if "compile" in cls.__dict__:
            cls.compile.__doc__ = with_options(QEFFBaseModel.compile.__doc__, getattr(cls, "options_class", Options))

    def __init__(self, model: Any, *, tokenizer: Any | None = None) -> None:
        super().__init__()
        _check_is_model(type(self).__name__, model)
        self._model = model
        self.tokenizer = tokenizer
        self.onnx_path: Path | None = None
        self._source: WeightSource | None = None
        self._graph: Artifact | None = None
        """Exported before, in place of what an export would make."""
        self._named = ""
        """How :meth:`from_pretrained` was told which checkpoint."""

    # What a task adds.

    @classmethod
    @abstractmethod
    def hf_auto_class(cls) -> Any:
        """transformers' auto class for this task."""

    @classmethod
    @abstractmethod
    def takes(cls, config: PretrainedConfig, heads: Sequence[str]) -> bool:
        """Whether this class is for a checkpoint, by its config and the class names in ``architectures``."""

    @classmethod
    def takes_model(cls, model: PreTrainedModel) -> bool:
        """Whether this class is for a model that is loaded."""
        return cls.takes(model.config, [type(model).__name__])

    @abstractmethod
    def _plan(self, options: OptionsT, target: Target) -> PlanT:
        """What decides the graphs; checks that the target can run them."""

    def _checked_plan(self, options: OptionsT, target: Target) -> PlanT:
        """:meth:`_plan`; what the model's code raises over its config is an error of ours."""
        from QEfficient.transformers.lowering.infer_cache_spec import refusing

        with refusing(self._loaded()):
            self._check_lens(options)
            return self._plan(options, target)

    def max_lens(self) -> dict[str, int]:
        """Maximum lengths by the model's positions, by the names of their options; those without a limit are left out.

        ``compile`` checks them, ``inspect`` shows them, and an open package takes none beyond.
        """
        return {}

    def _check_lens(self, options: OptionsT) -> None:
        for name, limit in self.max_lens().items():
            value = getattr(options, name)
            longest = value if isinstance(value, int) else max(value)
            if longest > limit:
                raise CapacityError(
                    f"{name}={longest} is beyond the {limit} positions that {self.model_name} was made for. "
                    f"Give {name}={limit} or less."
                )

    def _resolve(self, plan: PlanT, options: OptionsT) -> PlanT:
        """The plan that can be exported, where only an export shows what the model's code allows."""
        return plan

    @abstractmethod
    def _graphs(self, plan: PlanT) -> dict[str, TaskGraph]:
        """The graphs of a resolved plan, by name."""

    @abstractmethod
    def _specializations(self, plan: PlanT, options: OptionsT, target: Target) -> dict[str, tuple[Specialization, ...]]:
        """The shapes that each graph can run at."""

    def _graph_options(self, name: str, options: OptionsT, target: Target) -> OptionsT:
        """Options of one graph, where several share a device."""
        return options

    @abstractmethod
    def _session(self, plan: PlanT, options: OptionsT, target: Target) -> Any:
        """What the session will need to know: the record that the task's runtime half reads."""

    def state_specs(self) -> list[StateSpec] | None:
        """What each layer keeps between steps; None for a task that keeps nothing.

        Raises:
            UnsupportedModel: a layer keeps something that no lowering holds yet.
        """
        return None

    @abstractmethod
    def choose_lowering(self, target: Target) -> LoweringChoice:
        """How ``target`` would run the model, and why not in a faster way.

        Raises:
            UnsupportedModel: it cannot; says why.
        """

    # Loading.

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: PathLike, *, trust_remote_code: bool = False, **kwargs: Any
    ) -> Self:
        """Load a checkpoint.

        Args:
            pretrained_model_name_or_path: a model on the Hub, a local folder, or a GGUF file.
            trust_remote_code: allow the checkpoint's Python files to run.
            kwargs: ``revision``, ``cache_dir``, ``token``, ``local_files_only``, ``dtype`` (or ``torch_dtype``), and
                ``gguf_file``, the name of one in the folder or repository; those of the class; ``config``, one of
                transformers in place of the checkpoint's; and values of the config, such as ``num_hidden_layers=2``.

        Raises:
            OptionError: an unknown option, or one of a wrong type.
            CheckpointNotFound: no such model or folder.
            UnsafeCheckpoint: pickled weights, remote code that was not allowed, or a file outside of the folder.
            CorruptCheckpoint: a file is damaged, or the weights do not fit the config.
            UnsupportedModel: transformers has no such model for this task.
        """
        from QEfficient.transformers.checkpoint import load as checkpoint

        options = LoadOptions.read(cls.load_arguments, trust_remote_code, kwargs)
        with stage("Loading", str(pretrained_model_name_or_path)):
            options.check_changes(pretrained_model_name_or_path)
            folder = checkpoint.resolve(pretrained_model_name_or_path, **options.for_checkpoint)
            cls._check_files(folder)
            changed = {**options.dtype, **options.changed_config(folder)}
            model = checkpoint.load_skeleton(cls.hf_auto_class(), folder, trust_remote_code, **changed)
            tokenizer = checkpoint.load_tokenizer(folder, trust_remote_code)
            loaded = cls(model, tokenizer=tokenizer, **options.for_class)
            loaded._named = str(pretrained_model_name_or_path)
            loaded._read_files(folder)
            loaded._check_missing()
        return loaded

    @classmethod
    def _check_files(cls, folder: Path) -> None:
        """Refuse a checkpoint's folder before anything of it is loaded.

        Raises:
            UnsupportedModel: it has an adapter beside the model's weights.
        """
        from QEfficient.transformers.checkpoint.other_layouts import check_no_adapter_beside

        check_no_adapter_beside(folder)

    def _read_files(self, folder: Path) -> None:
        """Read what else the task needs of a checkpoint's folder."""

    def _check_missing(self) -> None:
        """Check that the task's outputs depend on nothing that the checkpoint does not have.

        Raises:
            CorruptCheckpoint: one does.
        """
        from QEfficient.transformers.checkpoint.missing import MissingParameter
        from QEfficient.transformers.tasks.missing_weights import check_missing_weights

        if any(isinstance(parameter, MissingParameter) for parameter in self._loaded().parameters()):
            usual = self.options_class()
            within = {name: limit for name, limit in self.max_lens().items() if getattr(usual, name) > limit}
            plan = self._checked_plan(*self._parse(within))
            check_missing_weights(self._loaded(), self._graphs(plan).values())

    @classmethod
    def _without_model(cls) -> Self:
        model = cls.__new__(cls)
        QEFFBaseModel.__init__(model, None)
        return model

    @property
    def config(self) -> PretrainedConfig:
        """The Hugging Face config."""
        config: PretrainedConfig = self._loaded().config
        return config

    @property
    def model_name(self) -> str:
        """The architecture's class name."""
        return type(self._loaded()).__name__

    @property
    def model(self) -> Any:
        """The Hugging Face model with its weights, read now if they were not needed before; never changed. None after
        :meth:`from_package`."""
        if self._model is not None:
            from QEfficient.transformers.checkpoint.from_checkpoint import read_parameters

            read_parameters(self._model)
        return self._model

    @property
    def source_name(self) -> str:
        """What people call the checkpoint: its id on the Hub or the name of its folder in its parent, else the
        architecture's."""
        source = self._named or str(self.config.name_or_path or "")
        return (short_name(source) if Path(source).exists() else source) or self.model_name

    def _loaded(self) -> Any:
        """The Hugging Face model, whose weights may be still to be read."""
        if self._model is None:
            raise LifecycleError(
                "This model was opened from a package, which holds no PyTorch model; load the checkpoint with "
                "from_pretrained() to transform, export or compile it."
            )
        return self._model

    def __repr__(self) -> str:
        what = "from a package" if self._model is None else type(self._model).__name__
        state = f"qpc_path={str(self.qpc_path)!r}" if self.qpc_path else "not compiled"
        return f"{type(self).__name__}({what}, {state})"

    # Transforming.

    transform = _Transform()

    @classmethod
    def wrap(cls, model: PreTrainedModel | QEFFBaseModel, form_factor: str = "cloud") -> QEFFBaseModel:
        """See :func:`QEfficient.transform`, of which upstream's ``Class.transform`` is another spelling."""
        if form_factor != "cloud":
            raise OptionError(f"form_factor must be 'cloud', got {form_factor!r}.")
        if isinstance(model, QEFFBaseModel):
            return model
        wrapped = auto_class_for_model(model)(model)
        return wrapped.check_lowering() if wrapped.keeps_state else wrapped

    def check_lowering(self, **options: Any) -> Self:
        """Check that the model can be lowered for a target; nothing is exported. Options are those of ``compile``.

        Raises:
            UnsupportedModel: it cannot; says why.
        """
        self._checked_plan(*self._parse(options))
        return self

    # Exporting and compiling.

    def export(self, export_dir: PathLike | None = None, **options: Any) -> Path:
        """Write the ONNX graph, or find it in the store.

        Args:
            export_dir: a folder to write to instead of the store.
            options: those of ``compile`` that the graph depends on.

        Returns:
            The path of ``model.onnx``; of the first graph, where a model has several.

        Raises:
            CorruptCheckpoint: a weight is not finite.
            ExportError: PyTorch could not trace the model.
        """
        parsed, target = self._parse(options)
        plan = self._resolve(self._checked_plan(parsed, target), parsed)
        return graph_file(self.export_plan(plan, export_dir))

    def compile(self, compile_dir: PathLike | None = None, **options: Any) -> Path:
        """Make a package for a target, or find it in the store.

        Args:
            compile_dir: a folder to write to instead of the store.
            options: see the class of options of the auto class, ``options_class``.
            onnx_path: what :meth:`export` returned, to be sure that this graph is compiled.

        Returns:
            The package's folder.

        Raises:
            OptionError: an unknown, impossible or contradictory option.
            TargetUnavailable: the target cannot run here.
            UnsupportedModel: the target cannot express the model.
            CompileError: the target's compiler failed.
        """
        onnx_path = options.pop("onnx_path", None)
        compilation = self._compilation(*self._parse(options))
        if onnx_path is not None:
            check_graph(onnx_path, compilation.program_ingredients["onnx"])
        if compilation.options.dry_run:
            return compilation.dry_run(compile_dir)
        artifact = self.store_or_folder(PACKAGE, compilation.ingredients, compilation.package, compile_dir)
        self._use_package(artifact.path)
        return artifact.path

    def package_ingredients(self, **options: Any) -> dict[str, Any]:
        """Everything that decides what ``compile`` with these options makes; its digest is the package's key."""
        return self._compilation(*self._parse(options)).ingredients

    def exported_graph(self, body: PackageBody) -> Path:
        """The ONNX file that a package was compiled from, the first of several; exported again where it is gone."""
        key = next(iter(body.graphs.values())).onnx_key
        artifact = ArtifactStore().get_by_key(ONNX, key)
        if artifact is None:
            usual: Any = self.options_class()
            defaults = json_safe(asdict(self._with_defaults(usual, TARGETS[body.target], ())))
            options = {name: value for name, value in body.options.items() if name not in _OF_COMPILERS}
            passed = {name: value for name, value in options.items() if value != defaults.get(name)}
            parsed, target = self._parse({**passed, "target": body.target})
            artifact = self.export_plan(self._resolve(self._checked_plan(parsed, target), parsed))
        return graph_file(artifact)

    def _parse(self, passed: Mapping[str, Any]) -> tuple[OptionsT, Target]:
        """Options and target, with what the target cannot honour refused and what changes nothing reported."""
        self._loaded()
        self._source = None
        values, flags = accepted(self.options_class, passed)
        passed = self._accepted(values)
        options: Any = self.options_class.parse(passed, beside=raw_flag_names())
        target = choose_target(options.target, is_dry_run=options.dry_run)
        options = with_flags(options, flags, target)
        if ignored := target.check(options, list(passed)):
            logger.warning("%s: no effect on target '%s'.", ", ".join(ignored), target.name)
        if options.target is None:
            logger.info("Target: %s (%s).", target.name, target.description)
        return self._with_defaults(options, target, passed), target

    def _accepted(self, passed: dict[str, Any]) -> dict[str, Any]:
        """Options that the caller passed, with what the model was loaded for."""
        return passed

    def _with_defaults(self, options: OptionsT, target: Target, passed: Collection[str]) -> OptionsT:
        """``options`` with the defaults of the model on this target, for those that the caller did not pass."""
        return options

    def _compilation(self, options: OptionsT, target: Target) -> Compilation:
        """What the target's compiler is to make, checked as far as that needs no graph."""
        plan = self._checked_plan(options, target)
        compiler = target.load_compiler(options)
        shapes = self._specializations(plan, options, target)
        jobs = {
            name: CompileJob(specializations=each, options=self._graph_options(name, options, target))
            for name, each in shapes.items()
        }
        for job in jobs.values():
            compiler.check(job)
        side_files = self._side_file_digests()
        plan = self._resolve(plan, options)
        record = self._session(plan, options, target)
        return Compilation(
            model=self,
            plan=plan,
            record=record,
            jobs=jobs,
            side_files=side_files,
            compiler=compiler,
            target=target,
            options=options,
        )

    def _weights(self) -> WeightSource:
        """The model's weights; a new source for every call of a public method, since between two of them a user may
        have changed the model."""
        from QEfficient.transformers.checkpoint.from_checkpoint import weight_source

        if self._source is None:
            self._source = weight_source(self._loaded())
        return self._source

    def use_graph(self, artifact: Artifact) -> None:
        """Compile this graph from now on, whatever weights the model has."""
        self._graph = artifact

    def export_ingredients(self, plan: PlanT) -> dict[str, Any]:
        if self._graph is not None:
            return stored_ingredients(self._graph, plan)
        from QEfficient.exporter.packed_layout import packed_forms
        from QEfficient.exporter.toolchain import toolchain

        config = self.config.to_dict()
        config.pop("_name_or_path", None)
        return {
            "task": self.task,
            "architecture": self.model_name,
            "config": json_safe(config),
            "modules": sorted({type(module).__name__ for module in self._loaded().modules()}),
            "weights": self._weights().digest(),
            "packed": {name: repr(form) for name, form in packed_forms(self._weights()).items()},
            "plan": plan.key(),
            "toolchain": toolchain(),
            "library": source_version(),
        }

    def export_plan(self, plan: PlanT, export_dir: PathLike | None = None) -> Artifact:
        """The artifact with the graphs of a resolved plan."""
        from QEfficient.exporter.export import export_onnx

        if self._graph is not None:
            self.onnx_path = graph_file(self._graph)
            return self._graph

        def build(folder: Path) -> Built:
            weights_bytes = sum(each.numel() * each.element_size() for each in self._loaded().parameters())
            check_free_space(folder, weights_bytes, "the exported weights")
            with long_stage("Exporting", self.model_name):
                exported = export_onnx(self._graphs(plan), self._weights(), folder, transforms=plan.transforms)
            return Built({"graphs": exported.graphs}, exported.files)

        artifact = self.store_or_folder(ONNX, self.export_ingredients(plan), build, export_dir)
        self.onnx_path = graph_file(artifact)
        return artifact

    def resolve_by_export(
        self, plan: PlanT, lengths: Mapping[str, Any], narrow: Callable[[PlanT, ExportError], PlanT]
    ) -> PlanT:
        """The first plan that can be exported, remembered in the store.

        Args:
            plan: what is wished for.
            lengths: what it was asked for, as far as ``narrow`` looks at it.
            narrow: the next plan to try after an export that failed; raises where there is none.
        """
        return first_exportable(self, plan, lengths, narrow)

    def store_or_folder(
        self, kind: str, ingredients: Mapping[str, Any], build: Build, folder: PathLike | None = None
    ) -> Artifact:
        label = f"{self.source_name} {kind}"
        if folder is not None:
            stored = ArtifactStore().get(kind, ingredients)
            make = build if stored is None else stored.copy_into
            return write_artifact(folder, kind, ingredients, make, label=label)[0]
        artifact, built = ArtifactStore().get_or_build(kind, ingredients, build, label=label)
        logger.info("%s %s: %s", "Built" if built else "Found", kind, artifact.path)
        return artifact

    # What inference needs beside the compiled files.

    def _side_file_digests(self) -> dict[str, str]:
        with scratch_folder() as folder:
            self.write_side_files(folder)
            return {name: hash_file(folder / name)[0] for name in list_files(folder)}

    def write_side_files(self, folder: Path) -> None:
        """Tokenizer and configs: what inference needs beside the model."""
        from QEfficient.base.tokenizer_files import save_tokenizer
        from QEfficient.generation.tokenizer import FOLDER

        if self.tokenizer is not None:
            save_tokenizer(self.tokenizer, folder / FOLDER, self.config.name_or_path or self.model_name)


def _check_is_model(class_name: str, model: Any) -> None:
    """
    Raises:
        OptionError: it is none, but the name of one or something else.
    """
    if model is None or hasattr(model, "config"):
        return
    shown = f"{model!r:.80}"
    is_named = isinstance(model, str | os.PathLike)
    cure = f"load it with {class_name}.from_pretrained({shown})" if is_named else "pass a PreTrainedModel"
    raise OptionError(f"{class_name} takes a Hugging Face model, got a {type(model).__name__} ({shown}): {cure}.")
