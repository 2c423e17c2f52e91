"""The few functions of torchvision that image processors call, for those that transformers writes with it alone.

Their modules import with these in its place; transformers goes on to say that torchvision is not installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from types import ModuleType
from typing import Any

import torch
from torch.nn import functional


class InterpolationMode(Enum):
    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


def resize(
    image: torch.Tensor,
    size: Sequence[int],
    interpolation: InterpolationMode | int = InterpolationMode.BILINEAR,
    antialias: bool = True,
) -> torch.Tensor:
    """Resize ``[..., C, H, W]``; bytes stay bytes. Lanczos becomes bicubic. An integer is PIL's."""
    if isinstance(interpolation, int):
        interpolation = _by_pil()[interpolation]
    mode = "bicubic" if interpolation is InterpolationMode.LANCZOS else interpolation.value
    smooth = {"align_corners": False, "antialias": antialias} if mode in ("bilinear", "bicubic") else {}
    flat = image.reshape(-1, *image.shape[-3:]).float()
    resized = functional.interpolate(flat, size=tuple(map(int, size)), mode=mode, **smooth)
    if not image.is_floating_point():
        resized = resized.round().clamp(0, 255)
    return resized.to(image.dtype).reshape(*image.shape[:-2], *resized.shape[-2:])


def pad(
    image: torch.Tensor,
    padding: Sequence[int],
    fill: float | Sequence[float] | None = 0,
    padding_mode: str = "constant",
) -> torch.Tensor:
    """Pad ``[..., H, W]`` by ``left, top, right, bottom``, or by the same on either side."""
    left, top, right, bottom = [padding] * 4 if isinstance(padding, int) else (list(padding) * 2)[:4]
    if padding_mode != "constant":
        return functional.pad(image, (left, right, top, bottom), mode=padding_mode)
    fills = list(fill) if isinstance(fill, Sequence) else [fill or 0]
    height, width = image.shape[-2] + top + bottom, image.shape[-1] + left + right
    padded = torch.zeros(*image.shape[:-2], height, width, dtype=image.dtype)
    padded += torch.tensor(fills, dtype=image.dtype).reshape(-1, 1, 1)
    padded[..., top : top + image.shape[-2], left : left + image.shape[-1]] = image
    return padded


def crop(image: torch.Tensor, top: int, left: int, height: int, width: int) -> torch.Tensor:
    return image[..., top : top + height, left : left + width]


def normalize(image: torch.Tensor, mean: Any, std: Any, inplace: bool = False) -> torch.Tensor:
    mean, std = (torch.as_tensor(values, dtype=image.dtype).reshape(-1, 1, 1) for values in (mean, std))
    return (image - mean) / std


def grayscale_to_rgb(image: torch.Tensor) -> torch.Tensor:
    return image.expand(*image.shape[:-3], 3, *image.shape[-2:]) if image.shape[-3] == 1 else image


def rgb_to_grayscale(image: torch.Tensor, num_output_channels: int = 1) -> torch.Tensor:
    weights = torch.tensor([0.2989, 0.587, 0.114]).reshape(3, 1, 1)
    gray = (image.float() * weights).sum(-3, keepdim=True).to(image.dtype)
    return gray.expand(*gray.shape[:-3], num_output_channels, *gray.shape[-2:])


def pil_to_tensor(picture: Any) -> torch.Tensor:
    import numpy as np

    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def to_dtype(image: torch.Tensor, dtype: torch.dtype = torch.float32, scale: bool = False) -> torch.Tensor:
    if not scale or image.dtype == dtype:
        return image.to(dtype)
    return image.to(dtype) / 255 if dtype.is_floating_point else (image * 255).round().to(dtype)


@contextmanager
def torchvision() -> Iterator[None]:
    """``import torchvision`` works within; outside, only what was imported keeps it."""
    from transformers import image_processing_backends as backends

    modules, by_pil = _modules(), _by_pil()
    backends.tvF = modules["torchvision.transforms.v2.functional"]
    backends.pil_torch_interpolation_mapping = by_pil
    backends.torch_pil_interpolation_mapping = {mode: pil for pil, mode in by_pil.items()}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def _by_pil() -> dict[int, InterpolationMode]:
    from PIL.Image import Resampling

    return {Resampling[mode.name]: mode for mode in InterpolationMode if mode.name in Resampling.__members__}


def _modules() -> dict[str, ModuleType]:
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.v2")
    modules = {name: ModuleType(name) for name in (*names, "torchvision.transforms.v2.functional")}
    functions = modules["torchvision.transforms.v2.functional"]
    of_colors = (grayscale_to_rgb, rgb_to_grayscale, normalize, to_dtype, pil_to_tensor)
    for function in (resize, pad, crop, *of_colors, InterpolationMode):
        setattr(functions, function.__name__, function)
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    return modules


def class_of(name: str) -> Any:
    """transformers' class ``name``, from its module where the package has another or none for lack of torchvision."""
    import transformers

    whole = getattr(transformers, name)
    if not getattr(whole, "is_dummy", False) and whole.__name__ == name:
        return whole
    with torchvision():
        module = importlib.import_module(f"transformers.{transformers._class_to_module[name]}")
    return getattr(module, name)
