"""The feature extractor of a package: audio to what its model takes. It is the checkpoint's, and runs in transformers,
which is imported when the first audio comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from QEfficient.errors import CorruptArtifact, LifecycleError, OptionError
from QEfficient.generation.tokenizer import read_side_file

FOLDER = "feature_extractor"
FILE = "preprocessor_config.json"


class HFFeatureExtractor(Protocol):
    """One of transformers."""

    sampling_rate: int

    def __call__(self, raw_speech: np.ndarray, **options: object) -> Any: ...


class FeatureExtractor:
    """Turns audio into features, one at a time, so that none is padded for another."""

    def __init__(self, extractor: HFFeatureExtractor):
        self._extractor = extractor
        self.sampling_rate = int(extractor.sampling_rate)
        """Samples a second that it takes."""

    @property
    def max_len(self) -> int | None:
        """Samples after which it cuts audio off; None: it does not."""
        length = getattr(self._extractor, "n_samples", None)
        return length if isinstance(length, int) else None

    def features(self, samples: np.ndarray, name: str, is_whole: bool = False, **options: bool | str) -> np.ndarray:
        """The features of audio.

        Args:
            samples: float32 ``[T]`` at :attr:`sampling_rate`.
            name: of the input that has them: ``input_values`` or ``input_features``.
            is_whole: whether the padding that the extractor adds is part of them.
            options: of the extractor.

        Returns:
            ``[T]`` or with more axes, as the model takes one row.

        Raises:
            LifecycleError: it needs a package that is not installed.
            OptionError: it refuses the audio.
        """
        try:
            output = self._extractor(
                samples, sampling_rate=self.sampling_rate, return_tensors="np", return_attention_mask=True, **options
            )
            rows = np.asarray(output[name])
            if len(rows) != 1:
                raise ValueError(f"it makes {len(rows)} signals of it: pass {name} as it made them")
            row = rows[0].astype(np.float32)
        except ImportError as error:
            said = " ".join(str(error).split())[:200]
            raise LifecycleError(
                f"{type(self._extractor).__name__} needs a package that is not installed: {said}. Install it, or pass "
                f"{name} instead of audio."
            ) from error
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
            raise OptionError(
                f"{type(self._extractor).__name__} refuses audio of {len(samples)} samples: {error}"
            ) from error
        mask = output.get("attention_mask")
        return row if mask is None or is_whole else row[: int(np.asarray(mask)[0].sum())]


def open_feature_extractor(folder: Path) -> FeatureExtractor:
    """The feature extractor in ``folder``.

    Raises:
        LifecycleError: there is none, or what it needs to run is not installed.
        CorruptArtifact: it cannot be used.
    """
    path = folder / FILE
    if not path.is_file():
        raise LifecycleError(
            f"{folder.parent} has no feature extractor: the model was compiled without one. Pass a processor's output "
            "instead of audio."
        )
    name = read_side_file(path).get("feature_extractor_type", "feature extractor")
    try:
        from transformers import AutoFeatureExtractor

        return FeatureExtractor(
            AutoFeatureExtractor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        )
    except ImportError as error:
        said = " ".join(str(error).split())[:200]
        raise LifecycleError(
            f"{path} is a {name}, which runs in transformers, where something is not installed: {said}. Install it, or "
            "pass a processor's output instead of audio."
        ) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise CorruptArtifact(f"{path}: transformers cannot open the {name}: {said}. Compile again.") from error
