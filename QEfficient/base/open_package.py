"""The package of a model: opened when it is first run, kept open, and opened again after it was closed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, ClassVar, Self

from QEfficient.errors import ArtifactError, LifecycleError, OptionError
from QEfficient.output import name_warnings
from QEfficient.progress import stage

if TYPE_CHECKING:
    from QEfficient.base.modeling_qeff import PathLike
    from QEfficient.generation.compiled_model import CompiledModel

name_warnings()
_OPENING = RLock()
"""One package is opened at a time: threads that make a model's first call share what it opens."""


class PackageOwner(ABC):
    """Runs a compiled package.

    Attributes:
        tokenizer: encodes and decodes text; None: the package's does.
        qpc_path: the compiled package's folder, once there is one.
    """

    task: ClassVar[str]
    """The task's name in :data:`QEfficient.tasks.TASKS`."""

    def __init__(self) -> None:
        self.tokenizer: Any | None = None
        self.qpc_path: Path | None = None
        self._compiled: CompiledModel | None = None
        self._settings: dict[str, Any] = {}
        """What :attr:`qpc_path` is opened with instead of what it was compiled for."""

    @classmethod
    @abstractmethod
    def _without_model(cls) -> Self:
        """An owner that has no Hugging Face model."""

    @classmethod
    def from_package(cls, path: PathLike, device_ids: Sequence[int] | None = None, **settings: Any) -> Self:
        """Open what ``compile`` made, here or elsewhere, without the checkpoint it came from.

        Args:
            path: the package's folder.
            device_ids: the cards to run it on; None: those with the most free cores.
            settings: what to open it with instead of what it was compiled for, as of
                :func:`QEfficient.generation.package.from_package`.

        Raises:
            ArtifactNotFound: no package there.
            ArtifactError: it holds another task.
            OptionError: a setting is unknown, or was settled when the package was compiled.
        """
        from QEfficient.generation.package import from_package

        compiled = from_package(path, device_ids, **settings)
        if compiled.task != cls.task:
            raise ArtifactError(f"{path} holds a '{compiled.task}' package, {cls.__name__} runs '{cls.task}'.")
        owner = cls._without_model()
        owner._compiled, owner.qpc_path = compiled, compiled.path
        owner._settings = {"device_ids": device_ids, **settings}
        return owner

    def _use_package(self, package: Path) -> None:
        """Run ``package`` from now on, opened as it was compiled."""
        self.close()
        self.qpc_path, self._settings = package, {}

    def _open(self, device_ids: Sequence[int] | None = None) -> Any:
        """The compiled package, opened once; anew where other devices are asked for.

        Raises:
            LifecycleError: there is none.
        """
        with _OPENING:
            if self._compiled is not None and device_ids is not None and device_ids != self._compiled.device_ids:
                self.close()
            if self._compiled is None:
                if self.qpc_path is None:
                    raise LifecycleError(
                        "There is nothing to run yet: call compile() first, or open a package with from_package()."
                    )
                from QEfficient.generation.package import from_package

                settings = self._settings if device_ids is None else {**self._settings, "device_ids": device_ids}
                with stage("Opening", self.qpc_path.name[:12]):
                    self._compiled = from_package(self.qpc_path, **settings)
            return self._compiled

    def _text_tokenizer(self, tokenizer: Any | None) -> Any | None:
        """What text is encoded with: the caller's tokenizer, else the model's; None: the package's."""
        return self.tokenizer if tokenizer is None else tokenizer

    @abstractmethod
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Run the package."""

    def close(self) -> None:
        """Release what the open package holds: memory, and cores of a card. The next run opens it again."""
        if self._compiled is not None:
            self._compiled.close()
        self._compiled = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def check_runtime(runtime_ai100: bool) -> None:
    """Refuse upstream's switch to run in PyTorch.

    Raises:
        OptionError: it is off.
    """
    if runtime_ai100 is not True:
        raise OptionError(f"runtime_ai100={runtime_ai100!r}: to run without a card, compile with target='cpu'.")
