"""The lifecycle that every model shares: load, transform, export, compile, generate.

Knows no model and no target by name. Each stage runs the ones before it when they are needed and takes from the
store what is already there.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from QEfficient.contract import COMMAND_FILE, CompileJob, Specialization
from QEfficient.errors import ArtifactError, LifecycleError, OptionError, StorageError, nearest
from QEfficient.options import CompileOptions
from QEfficient.progress import stage
from QEfficient.store.artifacts import Artifact, ArtifactStore, home, update_body, write_artifact
from QEfficient.store.digests import digest, json_safe
from QEfficient.store.files import readable_bytes
from QEfficient.store.source_version import source_version
from QEfficient.targets import Target, choose_target

if TYPE_CHECKING:
    from QEfficient.generation.package import CompiledModel
    from QEfficient.transformers.tasks.graph_spec import TaskGraph
    from QEfficient.verify.parity import ParityReport

logger = logging.getLogger(__name__)

PACKAGE, ONNX = "package", "onnx"


class _Transform:
    """``model.transform(**options)`` on a model of ours, and upstream's ``Class.transform(hf_model, form_factor)``."""

    def __get__(self, model: QEFFBaseModel | None, owner: type[QEFFBaseModel]) -> Callable[..., Any]:
        if model is not None:
            return model._check_lowering
        return owner._wrap


class QEFFBaseModel(ABC):
    """A Hugging Face model on its way to a target.

    Attributes:
        model: the Hugging Face model; never changed. None after :meth:`from_package`.
        tokenizer: the checkpoint's tokenizer, if it brings one.
        onnx_path: the exported graph, once there is one.
        qpc_path: the compiled package's folder, once there is one.
    """

    task: ClassVar[str]
    options_class: ClassVar[type[CompileOptions]]

    def __init__(self, model: Any, *, tokenizer: Any | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.onnx_path: Path | None = None
        self.qpc_path: Path | None = None
        self._compiled: CompiledModel | None = None

    @classmethod
    @abstractmethod
    def _auto_class(cls) -> Any:
        """transformers' auto class for this task."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *, trust_remote_code: bool = False, **kwargs: Any
    ) -> Self:
        """Load a checkpoint.

        Args:
            pretrained_model_name_or_path: a Hub card or a local folder.
            trust_remote_code: allow the checkpoint's own Python files to run.
            kwargs: ``revision``, ``cache_dir``, ``token``, ``local_files_only``, ``dtype`` (or ``torch_dtype``); and
                those of the class.

        Raises:
            CheckpointNotFound: no such card or folder.
            UnsafeCheckpoint: pickled weights, or remote code that was not allowed.
            CorruptCheckpoint: the weights do not fit the config.
            UnsupportedModel: transformers has no such model for this task.
        """
        from QEfficient.transformers.checkpoint import load as checkpoint

        own = {name: kwargs.pop(name) for name in cls._own_arguments() if name in kwargs}
        unknown = set(kwargs) - checkpoint.LOAD_OPTIONS
        if unknown:
            name = sorted(unknown)[0]
            known = [*checkpoint.LOAD_OPTIONS, *cls._own_arguments(), "trust_remote_code"]
            raise OptionError(f"from_pretrained() has no option '{name}'.{nearest(name, known)}")
        with stage("Loading", str(pretrained_model_name_or_path)):
            folder = checkpoint.resolve(os.fspath(pretrained_model_name_or_path), **kwargs)
            dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
            options = {} if dtype is None else {"dtype": dtype}
            model = checkpoint.load_model(cls._auto_class(), folder, trust_remote_code, **options)
            tokenizer = checkpoint.load_tokenizer(folder, trust_remote_code)
        return cls(model, tokenizer=tokenizer, **own)

    @classmethod
    def _own_arguments(cls) -> tuple[str, ...]:
        """Arguments of ``__init__`` that ``from_pretrained`` passes on."""
        return ()

    @classmethod
    def from_package(cls, path: str | os.PathLike[str]) -> Self:
        """Open what ``compile`` made, here or elsewhere, without the checkpoint it came from.

        Raises:
            ArtifactNotFound: no package there.
            ArtifactError: it holds another task.
        """
        from QEfficient.generation.package import from_package

        compiled = from_package(path)
        if compiled.task != cls.task:
            raise ArtifactError(f"{path} holds a '{compiled.task}' package, {cls.__name__} runs '{cls.task}'.")
        opened = cls.__new__(cls)
        QEFFBaseModel.__init__(opened, None)
        opened._compiled, opened.qpc_path = compiled, compiled.path
        return opened

    @abstractmethod
    def _graph(self, plan: Any) -> TaskGraph:
        """The task's graph for a plan of :meth:`_plan`."""

    @abstractmethod
    def _plan(self, options: Any, target: Target) -> dict[str, Any]:
        """What decides the graph, as ingredients; checks that the target can do it."""

    @abstractmethod
    def _package_body(self, plan: dict[str, Any], options: Any, target: Target) -> dict[str, Any]:
        """What the session will need to know."""

    @abstractmethod
    def _specializations(self, plan: dict[str, Any], options: Any, target: Target) -> tuple[Specialization, ...]:
        """The shapes that the package can run at."""

    @property
    def config(self) -> Any:
        """The Hugging Face config."""
        return self._loaded().config

    @property
    def model_name(self) -> str:
        """The architecture's class name."""
        return type(self._loaded()).__name__

    def __repr__(self) -> str:
        what = "from a package" if self.model is None else type(self.model).__name__
        state = f"qpc_path={str(self.qpc_path)!r}" if self.qpc_path else "not compiled"
        return f"{type(self).__name__}({what}, {state})"

    transform = _Transform()

    @classmethod
    @abstractmethod
    def _wrap(cls, model: Any, form_factor: str = "cloud") -> QEFFBaseModel:
        """See :func:`QEfficient.transform`."""

    def _check_lowering(self, **options: Any) -> Self:
        """Check that the model can be lowered for a target; nothing is exported. Options are those of ``compile``.

        Raises:
            UnsupportedModel: it cannot; says why.
        """
        parsed, target = self._parse(options)
        self._plan(parsed, target)
        return self

    def export(self, export_dir: str | os.PathLike[str] | None = None, **options: Any) -> Path:
        """Write the ONNX graph, or find it in the store.

        Args:
            export_dir: a folder of your own instead of the store.
            options: those of ``compile`` that the graph depends on.

        Returns:
            The path of ``model.onnx``.

        Raises:
            CorruptCheckpoint: a weight is not finite.
            ExportError: PyTorch could not trace the model.
        """
        parsed, target = self._parse(options)
        return self._export(self._plan(parsed, target), export_dir).file("model.onnx")

    def compile(self, compile_dir: str | os.PathLike[str] | None = None, **options: Any) -> Path:
        """Make a package for a target, or find it in the store.

        Args:
            compile_dir: a folder of your own instead of the store.
            options: see the class's options.

        Returns:
            The package's folder.

        Raises:
            OptionError: an unknown, impossible or contradictory option.
            TargetUnavailable: the target cannot run here.
            UnsupportedModel: the target cannot express the model.
            CompileError: the target's compiler failed.
        """
        parsed, target = self._parse(options)
        plan = self._plan(parsed, target)
        job = self._job(plan, parsed, target)
        if parsed.dry_run:
            return self._dry_run(plan, job, target, compile_dir)
        body = self._package_body(plan, parsed, target)

        def build(folder: Path) -> Mapping[str, Any]:
            onnx = self._export(plan)
            with stage("Compiling", f"{self.model_name} for {target.name}"):
                bindings = _compiler(target).compile_onnx(onnx.file("model.onnx"), folder, job, target)
                self._write_side_files(folder)
            marks = {name: onnx.manifest.body[name] for name in ("layers", "num_layers")}
            return {**body, **bindings, **marks, "options": json_safe(asdict(parsed))}

        ingredients = self._package_ingredients(plan, job, target)
        artifact = self._store_or_folder(PACKAGE, ingredients, build, compile_dir)
        self._use(artifact)
        return artifact.path

    def package_ingredients(self, **options: Any) -> dict[str, Any]:
        """Everything that decides what ``compile`` with these options makes; its digest is the package's key."""
        parsed, target = self._parse(options)
        plan = self._plan(parsed, target)
        return self._package_ingredients(plan, self._job(plan, parsed, target), target)

    def _job(self, plan: dict[str, Any], options: Any, target: Target) -> CompileJob:
        """What the target's compiler is to make, checked as far as that needs no graph."""
        job = CompileJob(specializations=self._specializations(plan, options, target), options=options)
        _compiler(target).check(job, target)
        return job

    def _dry_run(
        self, plan: dict[str, Any], job: CompileJob, target: Target, folder: str | os.PathLike[str] | None
    ) -> Path:
        """Export, write what the compiler reads, and say its command."""
        onnx = self._export(plan)
        key = digest(self._package_ingredients(plan, job, target))
        path = Path(folder).expanduser().absolute() if folder is not None else home() / "dry-runs" / key[:16]
        path.mkdir(parents=True, exist_ok=True)
        made = _compiler(target).compile_onnx(onnx.file("model.onnx"), path, job, target)
        (path / COMMAND_FILE).write_text(made["command"] + "\n", encoding="utf-8")
        logger.warning("Dry run: nothing was compiled. What the compiler would read is in %s.", path)
        return path

    @abstractmethod
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Run the package."""

    def close(self) -> None:
        """Give back what the open package holds: memory, and cores of a card. The next run opens it again."""
        if self._compiled is not None:
            self._compiled.close()
        self._compiled = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _loaded(self) -> Any:
        if self.model is None:
            raise LifecycleError(
                "This model was opened from a package, which holds no PyTorch model; load the checkpoint with "
                "from_pretrained() to transform, export or compile it."
            )
        return self.model

    def _parse(self, given: Mapping[str, Any]) -> tuple[Any, Target]:
        """Options and target, with what the target cannot honour refused and what changes nothing reported."""
        self._loaded()
        options = self.options_class.parse(given)
        target = choose_target(options.target, is_dry_run=options.dry_run)
        defaults = {f.name: getattr(self.options_class(), f.name) for f in fields(options)}
        changed = {name for name in given if getattr(options, name) != defaults[name]}
        for name in sorted(changed & target.refused_options.keys()):
            raise OptionError(f"{name}={given[name]!r}: {target.refused_options[name]}.")
        ignored = sorted(set(given) & target.ignored_options)
        if ignored:
            logger.warning("%s: no effect on target '%s'.", ", ".join(ignored), target.name)
        if options.target is None:
            logger.info("Target: %s (%s).", target.name, target.description)
        return options, target

    def _package_ingredients(self, plan: dict[str, Any], job: CompileJob, target: Target) -> dict[str, Any]:
        return {
            "graph": self._export_ingredients(plan),
            "task": self.task,
            "target": target.name,
            "body": self._package_body(plan, job.options, target),
            "compiler": _compiler(target).key_ingredients(job, target),
            "library": source_version(),
            "side_files": self._side_files_digest(),
        }

    def _export_ingredients(self, plan: dict[str, Any]) -> dict[str, Any]:
        from QEfficient.exporter.export import toolchain
        from QEfficient.exporter.weights import weights_digest

        config = self.config.to_dict()
        config.pop("_name_or_path", None)
        return {
            "task": self.task,
            "architecture": self.model_name,
            "config": json_safe(config),
            "weights": weights_digest(self._loaded()),
            "plan": plan,
            "toolchain": toolchain(),
            "library": source_version(),
        }

    def _export(self, plan: dict[str, Any], export_dir: str | os.PathLike[str] | None = None) -> Artifact:
        from QEfficient.exporter.export import export_onnx
        from QEfficient.exporter.weights import WeightSource

        def build(folder: Path) -> Mapping[str, Any]:
            model = self._loaded()
            self._check_disk(folder)
            WeightSource(model).check_finite()
            with stage("Exporting", self.model_name):
                return export_onnx(self._graph(plan), model, folder, transforms=plan["transforms"])

        artifact = self._store_or_folder(ONNX, self._export_ingredients(plan), build, export_dir)
        self.onnx_path = artifact.file("model.onnx")
        return artifact

    def _store_or_folder(
        self, kind: str, ingredients: Mapping[str, Any], build: Any, folder: str | os.PathLike[str] | None
    ) -> Artifact:
        label = f"{self.model_name} {kind}"
        if folder is not None:
            held = ArtifactStore().get(kind, ingredients)
            make = build if held is None else held.copy_into
            return write_artifact(Path(folder), kind, ingredients, make, label=label)[0]
        artifact, built = ArtifactStore().get_or_build(kind, ingredients, build, label=label)
        logger.info("%s %s: %s", "Built" if built else "Found", kind, artifact.path)
        return artifact

    def _check_disk(self, folder: Path) -> None:
        needed = sum(p.numel() * p.element_size() for p in self._loaded().parameters())
        free = shutil.disk_usage(folder).free
        if free < needed * 1.1:
            raise StorageError(
                f"{folder.parent} has {readable_bytes(free)} free; the exported weights need "
                f"{readable_bytes(needed)}. Free space, run `qefficient cache prune`, or set QEFF_HOME "
                f"(now {home()}) to a larger disk."
            )

    def _side_files_digest(self) -> str:
        """Digest of what travels beside the model."""
        from tempfile import TemporaryDirectory

        from QEfficient.store.digests import hash_file

        with TemporaryDirectory() as folder:
            self._write_side_files(Path(folder))
            paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
            return digest({str(path.relative_to(folder)): hash_file(path)[0] for path in paths})

    def _write_side_files(self, folder: Path) -> None:
        """Tokenizer and configs: what inference needs beside the model."""
        from QEfficient.generation.tokenizer import FOLDER

        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder / FOLDER)

    def _use(self, artifact: Artifact) -> None:
        self.close()
        self.qpc_path = artifact.path

    def _open(self, device_ids: Sequence[int] | None = None) -> Any:
        """The compiled package, opened once; anew where other cards are asked for."""
        if self._compiled is not None and device_ids is not None and device_ids != self._compiled.device_ids:
            self.close()
        if self._compiled is None:
            if self.qpc_path is None:
                raise LifecycleError(
                    "There is nothing to run yet: call compile() first, or open a package with from_package()."
                )
            from QEfficient.generation.package import from_package

            with stage("Opening", self.qpc_path.name[:12]):
                self._compiled = from_package(self.qpc_path, device_ids)
        return self._compiled

    def _store_report(self, report: ParityReport) -> None:
        compiled = self._open()
        compiled.artifact = update_body(compiled.artifact, {"parity": report.to_dict()})


def _compiler(target: Target) -> ModuleType:
    return importlib.import_module(target.compiler)
