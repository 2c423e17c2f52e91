"""What a model does with features in a step: a row for each token, whatever the model selects."""

from __future__ import annotations

import torch

from QEfficient.transformers.lowering.media import FeatureForm, MediaTokens, Rows, StepMedia

IDS = torch.tensor([[9, 5, 5, 7, 5]])
FEATURES = torch.arange(1.0, 13.0).reshape(1, 4, 3)
TOKENS = MediaTokens(
    placeholders=(("image", 5),), forms=(("image", FeatureForm(Rows(num_axes=3, is_listed=True), width=3)),)
)


def step() -> StepMedia:
    return StepMedia(TOKENS, IDS, FEATURES, index=torch.tensor([[-1, 1, 2, -1, 3]]))


def test_each_token_gets_its_row() -> None:
    (rows,) = step().arguments()["mm_encoder_outputs"]["image"].pooler_output
    mask = IDS == 5
    placed = step().scatter(torch.zeros(1, 5, 3), mask, rows)
    torch.testing.assert_close(placed[mask], FEATURES[0, 1:])
    assert not placed[~mask].any()
    assert rows.shape == (1, 5, 3)


def test_what_a_mask_of_tokens_selects_is_all_tokens() -> None:
    hidden, mask = torch.randn(1, 5, 3), IDS == 5
    (rows,) = step().arguments()["mm_encoder_outputs"]["image"].pooler_output
    selected = step().select(hidden, mask)
    assert selected.shape == (5, 3)
    placed = step().scatter(hidden, mask, selected + rows[0])
    torch.testing.assert_close(placed[mask], hidden[mask] + FEATURES[0, 1:])
    torch.testing.assert_close(placed[~mask], hidden[~mask])


def test_other_masks_select_as_always() -> None:
    hidden, mask = torch.randn(7, 3), torch.arange(7) > 4
    assert step().select(hidden, mask).shape == (2, 3)
    assert step().select(hidden, 0).shape == (3,)
