"""What the auto classes share whose models take audio: the checkpoint's feature extractor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from QEfficient.base.modeling_qeff import OptionsT, PlanT, QEFFBaseModel
from QEfficient.generation.feature_extractor import FOLDER, FeatureExtractor

if TYPE_CHECKING:
    from QEfficient.generation.feature_extractor import HFFeatureExtractor

_FILES = ("preprocessor_config.json", "processor_config.json")
DEFAULT_SAMPLING_RATE = 16000
"""In Hz, of models whose checkpoint does not say."""


class QEFFAudioModel(QEFFBaseModel[PlanT, OptionsT]):
    """A model that takes audio.

    Attributes:
        feature_extractor: the checkpoint's, if it brings one; makes of audio what the model takes, and is put into
            packages.
    """

    feature_extractor: HFFeatureExtractor | None = None

    def _read_files(self, folder: Path) -> None:
        super()._read_files(folder)
        self.feature_extractor = load_feature_extractor(folder)

    @property
    def sampling_rate(self) -> int:
        """Samples a second of the audio that the model takes."""
        return getattr(self.feature_extractor, "sampling_rate", DEFAULT_SAMPLING_RATE)

    def chosen_extractor(self, extractor: HFFeatureExtractor | None) -> HFFeatureExtractor | None:
        """``extractor``, else the model's; None: the package's runs."""
        return self.feature_extractor if extractor is None else extractor

    def write_side_files(self, folder: Path) -> None:
        super().write_side_files(folder)
        if self.feature_extractor is not None:
            save_feature_extractor(self.feature_extractor, folder / FOLDER, self.config.name_or_path or self.model_name)


def places_of_seconds(model: QEFFAudioModel[Any, Any], name: str, seconds: int) -> int:
    """Samples or features that so much audio is.

    Args:
        model: knows the feature extractor.
        name: of the input of the Hugging Face module that takes them.
        seconds: of audio.
    """
    num_samples = seconds * model.sampling_rate
    if name == "input_values":
        return num_samples
    if model.feature_extractor is None:
        return seconds * 100  # one each 10 ms, as most extractors make them
    return len(FeatureExtractor(model.feature_extractor).features(np.zeros(num_samples, np.float32), name))


def load_feature_extractor(folder: Path) -> HFFeatureExtractor | None:
    """The checkpoint's feature extractor, or None if it brings none.

    Raises:
        CorruptCheckpoint: transformers cannot read it.
        UnsupportedModel: a package that it needs is not installed.
    """
    from transformers import AutoFeatureExtractor

    from QEfficient.transformers.checkpoint.loader_errors import loader_errors

    if not any((folder / name).is_file() for name in _FILES):
        return None
    with loader_errors(folder, "the feature extractor"):
        extractor: HFFeatureExtractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
        return extractor


def save_feature_extractor(extractor: HFFeatureExtractor, folder: Path, source: str) -> None:
    """Write ``extractor`` into ``folder``.

    Args:
        source: the checkpoint's folder, or the model's name.

    Raises:
        CorruptCheckpoint: it holds something that its class cannot write.
    """
    from QEfficient.transformers.checkpoint.loader_errors import saver_errors

    with saver_errors(source, "the feature extractor"):
        extractor.save_pretrained(folder)  # type: ignore[attr-defined]  # transformers has it
