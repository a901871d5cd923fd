import pytest
import torch

from nnunet_topomae.pretext.masking import draw_masks


@pytest.mark.parametrize(("ratio", "masked"), [(0.75, 48), (0.125, 8), (0.001, 1), (0.999, 63)])
def test_every_view_masks_the_same_number_of_tokens(ratio, masked):
    masks = draw_masks(5, 3, 64, ratio, torch.Generator().manual_seed(0))
    assert masks.shape == (5, 3, 64) and masks.dtype == torch.bool
    assert masks.sum(-1).tolist() == [[masked] * 3] * 5


def test_the_draw_depends_on_the_generator_alone():
    first, again = (draw_masks(2, 1, 100, 0.5, torch.Generator().manual_seed(3)) for _ in range(2))
    other = draw_masks(2, 1, 100, 0.5, torch.Generator().manual_seed(4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_all_tokens_are_masked_equally_often():
    masks = draw_masks(2000, 2, 20, 0.75, torch.Generator().manual_seed(0))
    assert (masks.float().mean((0, 1)) - 0.75).abs().max() < 0.04  # 6 standard deviations


def test_a_single_token_cannot_be_masked():
    with pytest.raises(ValueError, match="at least 2 tokens.*patch is too small"):
        draw_masks(1, 1, 1, 0.5, torch.Generator())
