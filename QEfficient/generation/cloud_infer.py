"""A compiled program on Cloud AI 100, with the class name and methods that existing clients use.

Buffers are checked here, before the card gets them: the card accepts any buffer and fails later, with one status for
all errors.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from math import prod
from typing import Any, NoReturn, Self

import numpy as np

from QEfficient.compile.qaic_sdk import QaicSDK
from QEfficient.contract import RETAINED
from QEfficient.errors import CapacityError, CorruptArtifact, OptionError, TargetUnavailable, nearest
from QEfficient.generation.qaic_program import QaicProgram
from QEfficient.machine import memory_bytes
from QEfficient.store.files import readable_bytes

logger = logging.getLogger(__name__)

Shape = tuple[int, ...]

_SKIPPED: Shape = (0,)
_INTERNAL = "_InternalRetainedState"
_TYPES: dict[str, tuple[int, str]] = {
    "FLOAT_TYPE": (0, "float32"),
    "FLOAT_16_TYPE": (1, "float16"),
    "INT8_Q_TYPE": (2, "int8"),
    "UINT8_Q_TYPE": (3, "uint8"),
    "INT16_Q_TYPE": (4, "int16"),
    "INT32_Q_TYPE": (5, "int32"),
    "INT32_I_TYPE": (6, "int32"),
    "INT64_I_TYPE": (7, "int64"),
    "INT8_TYPE": (8, "int8"),
    "BFLOAT16_TYPE": (11, "bfloat16"),
}
"""The names of ``QAicApi_pb2``, the numbers for SDKs that lack a name, and what numpy calls the type."""
_SAME_BITS = frozenset({("bfloat16", "uint16"), ("uint16", "bfloat16"), ("int8", "bool")})
"""``(expected, passed)`` types that are the same bytes."""


class QAICInferenceSession:
    """One compiled program, loaded on a card. Not for several threads at once.

    A buffer that was set stays set until it is replaced, over all runs. One that was never set is zeros, in the shape
    that the others choose. ``np.array([])`` marks a buffer as skipped: the card keeps it to itself (retained state),
    and an output is then not returned.

    Attributes:
        input_names: in the program's order, and so ``output_names``.
        bindings: the descriptors of ``QAicApi_pb2``: name, index, dir, type, dims, is_partial_buf_allowed.
        binding_index_map: name to index; names with slashes also by their last part.
        allowed_shapes: per specialization a list of ``(bytes of an element, dims)``, one per binding; empty where the
            program lists none, and ``bindings`` has its only shape.
        aic_to_np_dtype_mapping: ``binding.type`` to numpy's. bfloat16 is that of ml_dtypes where it is installed,
            else uint16 with the bits; never float16, whose bits mean something else.
    """

    def __init__(
        self,
        qpc_path: str | os.PathLike[str],
        device_ids: Sequence[int] | None = None,
        activate: bool = True,
        enable_debug_logs: bool = False,
        data_path_timeout_ms: int = 120_000,
        sdk: QaicSDK | None = None,
        *,
        kv_dma_share: bool = False,
        cluster_id: str | None = None,
        stages: int | None = None,
        full_batch_size: int | None = None,
    ):
        """
        Args:
            qpc_path: the folder with ``programqpc.bin``, or a package of ours.
            device_ids: QIDs of as many devices as it was compiled for; None: the one with the most free cores.
            activate: take the card's cores and memory now.
            enable_debug_logs: let the runtime log everything.
            data_path_timeout_ms: how long one run may take, in milliseconds.
            sdk: whose runtime; None: that of the installed SDK.
            kv_dma_share: upstream's switch to hand the state over in buffers that two sessions share; only False.
            cluster_id: upstream's name of the session for that; no effect.
            stages: upstream's number of its pipeline's stages; the program says it.
            full_batch_size: upstream's; the program says it.

        Raises:
            ArtifactNotFound: no program there.
            CorruptArtifact: it is cut short or something else.
            TargetUnavailable: no SDK, no card, or no such device.
            CapacityError: cores or memory are not free.
            OptionError: impossible ``device_ids`` or timeout.
        """
        if kv_dma_share:
            raise OptionError(
                "kv_dma_share=True is not here: run() of one session returns *_RetainedState once reset_buffers() has "
                "named them, and run() of the other takes them as past_key.i and past_value.i."
            )
        self._program = QaicProgram(qpc_path, device_ids, sdk, data_path_timeout_ms, enable_debug_logs)
        self.qpc_path = self._program.path
        try:
            self._describe(self._program.api, self._program.description)
            if activate:
                self.activate()
        except BaseException:
            self.close()
            raise

    def _describe(self, api: Any, description: Any) -> None:
        self.aic_to_np_dtype_mapping = _numpy_types(api)
        self.bindings = description.selected_set.bindings
        if [binding.index for binding in self.bindings] != [*range(len(self.bindings))]:
            raise CorruptArtifact(f"{self.qpc_path}: its bindings are not in order. Compile it again.")
        if strange := [b for b in self.bindings if b.type not in self.aic_to_np_dtype_mapping]:
            raise CorruptArtifact(f"{self.qpc_path}: '{strange[0].name}' has the unknown type {strange[0].type}.")
        is_input = api.BUFFER_IO_TYPE_INPUT
        self.input_names = [binding.name for binding in self.bindings if binding.dir == is_input]
        self.output_names = [binding.name for binding in self.bindings if binding.dir != is_input]
        self.binding_index_map = _index(binding.name for binding in self.bindings)
        self._dtypes = [self.aic_to_np_dtype_mapping[binding.type] for binding in self.bindings]
        self._outputs = [index for index, binding in enumerate(self.bindings) if binding.dir != is_input]
        self.allowed_shapes = [
            [(self.aic_to_np_dtype_mapping[shape.type].itemsize, list(shape.dims)) for shape in allowed.shapes]
            for allowed in description.allowed_shapes
        ]
        if any(len(allowed) != len(self.bindings) for allowed in self.allowed_shapes):
            raise CorruptArtifact(f"{self.qpc_path}: its allowed shapes are not one per binding. Compile it again.")
        self._prepare_buffers()
        self._check_sizes()

    def _check_sizes(self) -> None:
        memory = memory_bytes()
        for shapes in self._specs:
            if any(dim < 0 for shape in shapes for dim in shape):
                raise CorruptArtifact(f"{self.qpc_path}: a buffer has a negative size. Compile it again.")
            sizes = (dtype.itemsize * prod(shape) for dtype, shape in zip(self._dtypes, shapes, strict=True))
            num_bytes = sum(sizes)
            if memory is not None and num_bytes > memory:
                raise CapacityError(
                    f"{self.qpc_path}: the buffers of one run take {readable_bytes(num_bytes)}, and this machine has "
                    f"{readable_bytes(memory)} of memory. Compile with a smaller ctx_len or batch."
                )

    def _prepare_buffers(self) -> None:
        binding_dims = [tuple(binding.dims) for binding in self.bindings]
        self._specs = [[tuple(dims) for _, dims in allowed] for allowed in self.allowed_shapes] or [binding_dims]
        self._choices = [{spec[index] for spec in self._specs} for index in range(len(self.bindings))]
        self._varying = [index for index, shapes in enumerate(self._choices) if len(shapes) > 1]
        self._state = {self.binding_index_map[name] for name in self.state_names}
        self._matches: dict[tuple[Shape | None, ...], list[Shape]] = {}
        self._shapes: list[Shape | None] = [None] * len(self.bindings)
        self._contents: list[Any] = [None] * len(self.bindings)
        self._blanks: dict[tuple[int, int], Any] = {}
        self._unknown: set[str] = set()

    @property
    def specializations(self) -> list[dict[str, Shape]]:
        """The shape of every binding by name, for each shape that the program was compiled for."""
        names = [binding.name for binding in self.bindings]
        return [dict(zip(names, spec, strict=True)) for spec in self._specs]

    @property
    def state_names(self) -> list[str]:
        """Inputs and outputs that are the card's retained state, to be skipped unless the host wants to see them."""
        inputs, names = {*self.input_names}, []
        for output in self.output_names:
            source = output.removesuffix(RETAINED).removesuffix(_INTERNAL)
            if source != output and source in inputs:
                names += [source, output]
        return names

    def activate(self) -> None:
        """Take the card's cores and memory; the retained state is cleared. Does nothing if the session is active.

        Raises:
            CapacityError: they are not free.
            LifecycleError: the session is closed.
        """
        self._program.activate()

    def deactivate(self) -> None:
        """Release cores and memory; the retained state is lost, buffers stay set. Does nothing if it is not active."""
        self._program.deactivate()

    def close(self) -> None:
        """Deactivate and unload the program. The session cannot be used afterwards; a second call does nothing."""
        self._program.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def set_buffers(self, buffers: Mapping[str, np.ndarray]) -> None:
        """Set buffers for this and later runs; all of them, or none where one is wrong. Names that the program does not
        have are left out with a warning: one loop drives programs with and without ``batch_index``.

        Of an output only the shape counts: it says which compiled shape is meant. The content of an input is copied,
        once, so that the array may be changed or dropped and need not be contiguous.

        Raises:
            OptionError: a wrong type, a shape that was not compiled, or one that cannot be skipped.
        """
        if not isinstance(buffers, Mapping):
            raise OptionError(f"Buffers are a dict of arrays by name, got a {type(buffers).__name__}.")
        named = zip(_names(buffers), buffers.values(), strict=True)
        arrays = {self._find(name): _as_array(name, buffer) for name, buffer in named if self._has(name)}
        shapes = {index: self._checked(index, array) for index, array in arrays.items()}
        for index, shape in shapes.items():
            is_content = shape != _SKIPPED and index not in self._outputs
            self._shapes[index] = shape
            self._contents[index] = self._program.runtime.QBuffer(arrays[index].tobytes()) if is_content else None

    def skip_buffers(self, skipped_buffer_names: Iterable[str]) -> None:
        """Leave buffers to the card from now on: retained state, and outputs that are not read."""
        self.set_buffers({name: np.array([]) for name in _names(skipped_buffer_names)})

    def reset_buffers(self, names: Iterable[str]) -> None:
        """Forget what was set: zeros again, in the shape that the other buffers choose."""
        for index in [self._find(name) for name in _names(names) if self._has(name)]:
            self._shapes[index] = self._contents[index] = None

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Set buffers and run once. Those that are left out keep what they had.

        Returns:
            The outputs that are not skipped, by name. Read only; they do not change with later runs.

        Raises:
            OptionError: as :meth:`set_buffers`, or the buffers' shapes were not compiled together.
            LifecycleError: not activated.
            DeviceError: the card failed, or did not answer within ``data_path_timeout_ms``.
        """
        self._program.check_ready()
        self.set_buffers(inputs)
        shapes = self._match()
        buffers = [
            self._blank(i, shapes[i]) if content is None else content for i, content in enumerate(self._contents)
        ]
        dims = [(dtype.itemsize, list(shape)) for dtype, shape in zip(self._dtypes, shapes, strict=True)]
        results = self._program.run(buffers, dims)
        wanted = [index for index in self._outputs if shapes[index] != _SKIPPED]
        return {self.bindings[index].name: self._array(index, results[index], shapes[index]) for index in wanted}

    def _array(self, index: int, result: Any, shape: Shape) -> np.ndarray:
        data, expected = bytes(result), self._dtypes[index].itemsize * prod(shape)
        if len(data) != expected:
            raise TargetUnavailable(
                f"The card gave {len(data)} bytes for '{self.bindings[index].name}', expected {expected} for {shape} "
                f"{self._dtypes[index]}. The program does not match its description: compile it again."
            )
        return np.frombuffer(data, self._dtypes[index]).reshape(shape)

    def _blank(self, index: int, shape: Shape) -> Any:
        """A buffer of zeros, one per binding, since the runtime may write into those of outputs."""
        key = (index, self._dtypes[index].itemsize * prod(shape))
        if key not in self._blanks:
            self._blanks[key] = self._program.runtime.QBuffer(bytes(key[1]))
        return self._blanks[key]

    def _has(self, name: str) -> bool:
        """Whether there is such a buffer; says once if there is none."""
        is_known = name in self.binding_index_map
        if not is_known and name not in self._unknown:
            self._unknown.add(name)
            logger.warning(
                "%s has no buffer '%s', which is left out.%s",
                *(self.qpc_path, name, nearest(name, self.binding_index_map)),
            )
        return is_known

    def _find(self, name: str) -> int:
        return self.binding_index_map[name]

    def _checked(self, index: int, array: np.ndarray) -> Shape:
        """The shape to pass for an array, if it can be passed."""
        binding, expected = self.bindings[index], self._dtypes[index]
        if array.size == 0:
            if index not in self._state and not binding.is_partial_buf_allowed:
                raise OptionError(f"'{binding.name}' cannot be skipped: the card needs all of it. Pass it whole.")
            return _SKIPPED
        if array.dtype != expected and (expected.name, array.dtype.name) not in _SAME_BITS:
            raise OptionError(f"'{binding.name}' must be {expected}, got {array.dtype}. Convert it with .astype().")
        # A program that lists no shapes takes a part of a buffer that allows it; else the shape is exact.
        is_part = not self.allowed_shapes and binding.is_partial_buf_allowed and array.size <= prod(binding.dims)
        if array.shape not in self._choices[index] and not is_part:
            allowed = ", ".join(map(str, sorted(self._choices[index])))
            raise OptionError(
                f"'{binding.name}' has a shape that was not compiled. Allowed: {allowed}. Passed: {array.shape}."
            )
        return array.shape

    def _match(self) -> list[Shape]:
        """The shape of each buffer in this run: as it is set, else as in the first compiled shapes that agree."""
        key = tuple(self._shapes[index] for index in self._varying)
        if key not in self._matches:
            fitting = [s for s in self._specs if all(self._shapes[i] in (None, _SKIPPED, s[i]) for i in self._varying)]
            if not fitting:
                self._refuse_shapes()
            self._matches[key] = fitting[0]
        spec = self._matches[key]
        return [compiled if shape is None else shape for shape, compiled in zip(self._shapes, spec, strict=True)]

    def _refuse_shapes(self) -> NoReturn:
        def listed(shapes: Sequence[Shape | None]) -> str:
            passed = [index for index in self._varying if self._shapes[index] not in (None, _SKIPPED)]
            return ", ".join(f"{self.bindings[index].name} {shapes[index]}" for index in passed)

        allowed = "".join(f"\n  {number}: {listed(spec)}" for number, spec in enumerate(self._specs))
        raise OptionError(
            f"No specialization has these shapes together.\nAllowed:{allowed}\nPassed:\n     {listed(self._shapes)}\n"
            "Outputs count too: call set_buffers() again when their shape changes, or reset_buffers() to infer it."
        )


def _names(names: Iterable[str]) -> list[str]:
    if isinstance(names, str | bytes) or not isinstance(names, Iterable) or getattr(names, "ndim", 1) == 0:
        raise OptionError(f"Names of buffers are a list of texts, got {names!r}.")
    listed = list(names)
    if strange := [name for name in listed if not isinstance(name, str)]:
        raise OptionError(f"A buffer's name is a text, got {strange[0]!r}.")
    return listed


def _as_array(name: str, buffer: object) -> np.ndarray:
    try:
        return np.asarray(buffer)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors with gradients or elsewhere
        raise OptionError(f"'{name}' must be an array, got a {type(buffer).__name__}: {error}") from error


def _numpy_types(api: Any) -> dict[int, np.dtype]:
    # ml_dtypes comes with onnx, which running a program does not need.
    has_bfloat16 = find_spec("ml_dtypes") is not None
    bfloat16 = np.dtype(import_module("ml_dtypes").bfloat16 if has_bfloat16 else np.uint16)
    return {
        int(getattr(api, name, number)): bfloat16 if kind == "bfloat16" else np.dtype(kind)
        for name, (number, kind) in _TYPES.items()
    }


def _index(names: Iterable[str]) -> dict[str, int]:
    """Names to indices, with the short forms of names in stitched graphs and functions where they are unique."""
    index = {name: number for number, name in enumerate(names)}
    short: dict[str, list[int]] = {}
    for name, number in index.items():
        short.setdefault(name.rpartition("/")[2].replace(_INTERNAL, RETAINED), []).append(number)
    return index | {name: numbers[0] for name, numbers in short.items() if len(numbers) == 1 and name not in index}
