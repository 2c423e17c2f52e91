"""Encodes images, videos and audio with the graphs of a package, and remembers what it encoded."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from QEfficient.contract import DEEPSTACK, FEATURES, Json
from QEfficient.errors import CapacityError, NumericError, OptionError
from QEfficient.generation.programs.program import Program

if TYPE_CHECKING:
    from QEfficient.processing.host import HostModel

Features = tuple[np.ndarray | None, np.ndarray | None]
"""Rows ``[V, D]``, and those that layers get besides, ``[K, V, D]``."""
CACHE_BYTES = 256 << 20
_OF_THIS_SIZE = {"image": "An image of this size", "video": "A video of this size", "audio": "A clip of this length"}
_OPTIONS = {"image": "img_size", "video": "img_size", "audio": "audio_seconds"}
"""What says at compile time which sizes there will be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FollowerRecord:
    """A module that a graph runs after its first: the host passes on what the graph gave."""

    path: str
    argument: str
    """That the module before gives."""
    form: Json = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaPartRecord:
    """One graph of an encoder."""

    graph: str
    path: str
    """Of the module that it stands for; "": it is the whole encoder, run for one image at a time."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    form: Json = None
    """Of the module's outputs."""
    followers: tuple[FollowerRecord, ...] = ()
    has_independent_rows: bool = False
    """Whether rows of its inputs may come in several runs; known where a package has static shapes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaEncoderRecord:
    """How a modality is encoded."""

    modality: str
    parts: tuple[MediaPartRecord, ...]
    crops: bool = False
    """Whether its graphs tell an image's size from that of its pixels."""
    idle: Mapping[str, Json] = field(default_factory=dict)
    """Paths of modules whose outputs nothing reads, and their forms."""
    in_prompts: bool = False
    """Whether a processor gives the images of each prompt, ``[prompts, images, …]``, and the encoder takes them so."""
    rows_mask: str = ""
    """Of a processor's output, what says which rows of features stand for something; "": all do."""

    @property
    def is_whole(self) -> bool:
        """Whether its graph is the whole encoder, so that the host computes nothing."""
        return not self.parts[0].path


class FeatureCache:
    """Features by what they were computed from; the ones that were not used for longest go first."""

    def __init__(self, max_bytes: int = CACHE_BYTES):
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._entries: OrderedDict[str, Features] = OrderedDict()
        self._lock = Lock()

    def get(self, key: str, make: Callable[[], Features]) -> Features:
        """The features of ``key``; made where they are not known."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
        features = make()
        with self._lock:
            self._entries[key] = features
            self._num_bytes += _size(features)
            while self._num_bytes > self._max_bytes and len(self._entries) > 1:
                self._num_bytes -= _size(self._entries.popitem(last=False)[1])
        return features


def _passed_on(argument: str, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
    return [inputs[argument]]


def _run_nothing(inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
    return []


def _size(features: Features) -> int:
    return sum(array.nbytes for array in features if array is not None)


def content_key(modality: str, inputs: Mapping[str, Any]) -> str:
    """Equal for equal images."""
    digest = hashlib.sha256(modality.encode())
    for name, value in sorted(inputs.items()):
        array = np.ascontiguousarray(value) if hasattr(value, "__array__") else None
        digest.update(f"{name} {value if array is None else (array.dtype, array.shape)}".encode())
        digest.update(b"" if array is None else array.tobytes())
    return digest.hexdigest()


class MediaEncoder:
    """Turns a processor's output into features.

    Args:
        record: what the package says.
        programs: its graphs by name; closed by their owner.
        host: the model's code on the host, where an encoder needs it.
        cache: of features.
    """

    def __init__(
        self,
        record: MediaEncoderRecord,
        programs: Mapping[str, Program],
        host: Callable[[], HostModel],
        cache: FeatureCache,
    ):
        self.record = record
        self._programs, self._host, self._cache = programs, host, cache

    def encode(self, batch: Mapping[str, Any]) -> Features | None:
        """Features of all images of a batch, in order; None where it has none.

        Raises:
            CapacityError: an image has another size than those that were compiled.
            NumericError: a feature is no number.
        """
        features = self._whole(batch) if self.record.is_whole else self._around_parts(batch)
        if not features:
            return None
        rows, layers = zip(*self._selected(features, batch.get(self.record.rows_mask)), strict=True)
        for array in (*rows, *layers):
            if array is not None and not np.isfinite(array).all():
                raise NumericError(
                    f"The {self.record.modality} encoder gives NaN or infinity: it overflows, or the checkpoint is "
                    "damaged. On cpu try precision='fp32'."
                )
        return (
            None if rows[0] is None else np.concatenate(rows),
            None if layers[0] is None else np.concatenate(layers, axis=1),
        )

    @staticmethod
    def _selected(features: list[Features], mask: Any) -> list[Features]:
        """Features of each image without the rows that stand for nothing; ``mask [images, V]``."""
        if mask is None:
            return features
        kept = [np.asarray(row).astype(bool) for row in mask]
        return [
            (None if rows is None else rows[keep], None if layers is None else layers[:, keep])
            for (rows, layers), keep in zip(features, kept, strict=True)
        ]

    def _whole(self, batch: Mapping[str, Any]) -> list[Features]:
        (part,) = self.record.parts
        if any(batch.get(name) is None for name in part.inputs):
            return []
        arrays = {name: np.asarray(batch[name]) for name in part.inputs}
        if self.record.in_prompts:
            arrays = {name: array.reshape(-1, 1, *array.shape[2:]) for name, array in arrays.items()}
        for name, array in arrays.items():
            if not array.ndim or array.dtype.kind not in "biuf":
                raise OptionError(
                    f"'{name}' must be an array with a row for each image or clip, got {array.dtype} {array.shape}."
                )
        features = []
        for place in range(len(next(iter(arrays.values())))):
            inputs = {name: array[place : place + 1] for name, array in arrays.items()}
            features.append(self._cached(inputs, partial(self._by_name, part, inputs)))
        return features

    def _by_name(self, part: MediaPartRecord, inputs: Mapping[str, np.ndarray]) -> Features:
        outputs = dict(zip(part.outputs, self._run(part, inputs), strict=True))
        return outputs.get(FEATURES), outputs.get(DEEPSTACK)

    def _around_parts(self, batch: Mapping[str, Any]) -> list[Features]:
        from QEfficient.processing.media import split_images

        host, modality = self._host(), self.record.modality
        inputs = host.encoder_inputs(modality, batch)
        parts = {part.path: (self._runner(part), part.form) for part in self.record.parts}
        for follower in (each for part in self.record.parts for each in part.followers):
            parts[follower.path] = partial(_passed_on, follower.argument), follower.form
        parts |= {path: (_run_nothing, form) for path, form in self.record.idle.items()}
        images = split_images(inputs, crops=self.record.crops) if inputs else ()
        return [self._cached(image, partial(host.encode, modality, image, parts)) for image in images]

    def _cached(self, inputs: Mapping[str, Any], make: Callable[[], Features]) -> Features:
        return self._cache.get(content_key(self.record.modality, inputs), make)

    def _runner(self, part: MediaPartRecord) -> Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]:
        return lambda inputs: self._run(part, inputs)

    def _run(self, part: MediaPartRecord, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        passed = {}
        for name in part.inputs:
            if name not in inputs:
                raise OptionError(
                    f"The processor's output lacks {name}, which the {self.record.modality} encoder needs."
                )
            array = np.asarray(inputs[name])
            passed[name] = np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else array.dtype)
        program = self._programs[part.graph]
        shapes = [{name: shape[name] for name in passed} for shape in program.shapes or ()]
        sizes = {name: array.shape for name, array in passed.items()}
        if not shapes or sizes in shapes:
            return self._outputs(part, passed)
        if (padded := _padded(passed, shapes)) is not None:
            return self._outputs(part, padded)
        num_rows = [next(iter(shape.values()))[0] for shape in shapes if _row(shape) == _row(sizes)]
        if not part.has_independent_rows or not num_rows:
            raise CapacityError(
                f"{_OF_THIS_SIZE[self.record.modality]} gives the {self.record.modality} encoder {sizes}, and the "
                f"package was compiled for {shapes}. Compile with its {_OPTIONS[self.record.modality]} too."
            )
        return self._in_runs(part, passed, max(num_rows))

    def _in_runs(self, part: MediaPartRecord, inputs: Mapping[str, np.ndarray], num_rows: int) -> Sequence[np.ndarray]:
        """The outputs of a part that was compiled for ``num_rows`` rows, each of which it encodes alone."""
        (count,) = {len(array) for array in inputs.values()}
        runs = []
        for begin in range(0, count, num_rows):
            rows = np.minimum(np.arange(begin, begin + num_rows), count - 1)  # the last row again fills the last run
            runs.append(self._outputs(part, {name: array[rows] for name, array in inputs.items()}))
        return [np.concatenate(leaves)[: count * len(leaves[0]) // num_rows] for leaves in zip(*runs, strict=True)]

    def _outputs(self, part: MediaPartRecord, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        outputs = self._programs[part.graph].run(inputs, list(part.outputs))
        return [np.array(outputs[name]) for name in part.outputs]


_MASK = "attention_mask"


def _padded(inputs: Mapping[str, np.ndarray], shapes: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Any] | None:
    """``inputs`` with a text that has a mask padded to the least of ``shapes`` that takes it; None: there is none."""
    pairs = [(name, name.removesuffix(_MASK) + "input_ids") for name in inputs if name.endswith(_MASK)]
    texts = {name for pair in pairs if pair[1] in inputs for name in pair}
    for shape in sorted(shapes, key=lambda each: [each[name][1] for name in sorted(texts)]):
        missing = {name: shape[name][1] - inputs[name].shape[1] for name in texts}
        others = all(tuple(shape[name]) == inputs[name].shape for name in inputs.keys() - texts)
        if texts and others and min(missing.values()) >= 0:
            return {n: np.pad(each, ((0, 0), (0, missing[n]))) if n in texts else each for n, each in inputs.items()}
    return None


def _row(shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Shapes without the axis of rows."""
    return {name: tuple(shape[1:]) for name, shape in shapes.items()}
