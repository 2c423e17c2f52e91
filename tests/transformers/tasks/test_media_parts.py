"""Which modules of an encoder become a graph, and what a card's compiler is told of its sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import image_text_models
import pytest
from image_text.processors import load as load_processor

from QEfficient import QEFFAutoModelForImageTextToText
from QEfficient.transformers.models.media_encoders import part_shapes
from QEfficient.transformers.tasks.media_graphs import has_independent_rows
from QEfficient.transformers.tasks.media_parts import PIPED, MediaEncoder

Load = Callable[[str], QEFFAutoModelForImageTextToText]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    @cache
    def model(model_type: str) -> QEFFAutoModelForImageTextToText:
        folder: Path = image_text_models.make(model_type, tmp_path_factory.mktemp(model_type))
        return QEFFAutoModelForImageTextToText.from_pretrained(folder, processor=load_processor(folder))

    return model


def encoder(model: QEFFAutoModelForImageTextToText) -> MediaEncoder:
    return model._seen()[0]["image"]


def test_modules_on_nothing_but_the_output_before_are_one_graph(load: Load) -> None:
    (part,) = encoder(load("idefics3")).parts
    assert [step.path for step in part.steps] == ["vision_model", "connector"]
    assert part.steps[1].sources == {"image_hidden_states": PIPED}


def test_layers_that_share_arguments_are_one_graph_whatever_their_number(load: Load) -> None:
    parts = encoder(load("hunyuan_vl")).parts
    (layers,) = [part for part in parts if part.path.endswith("layers.0")]
    assert [step.path for step in layers.steps] == ["vision_tower.layers.0", "vision_tower.layers.1"]
    assert layers.steps[1].sources == {"cu_seqlens": "cu_seqlens", "hidden_states": PIPED}


def test_a_module_whose_output_nobody_reads_is_no_graph(load: Load) -> None:
    lfm = encoder(load("lfm2_vl"))
    assert "vision_tower.head" in lfm.idle
    assert all(part.outputs for part in lfm.parts)


def test_an_output_whose_size_is_no_inputs_has_a_name_and_a_size(load: Load) -> None:
    model = load("hunyuan_vl")
    (conv,) = [part for part in encoder(model).parts if part.path.endswith("proj_conv")]
    (output,) = conv.outputs
    assert conv.axes[output] == {2: f"{output}_2", 3: f"{output}_3"}
    (shape,) = part_shapes(model.model, encoder(model), [model._sample("image", (56, 56))])[conv.name]
    assert (shape.symbols["input_2"], shape.symbols[f"{output}_2"]) == (4, 2)


@pytest.mark.parametrize(
    ("model_type", "in_rows"), [("idefics3", True), ("granite_docling", True), ("qwen2_5_vl", False)]
)
def test_rows_are_independent_where_a_tile_is_a_row_and_not_where_a_patch_is(
    model_type: str, in_rows: bool, load: Load
) -> None:
    model = load(model_type)
    assert [has_independent_rows(model.model, part) for part in encoder(model).parts] == [in_rows]
