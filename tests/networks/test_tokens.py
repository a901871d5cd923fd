import pytest
import torch

from nnunet_topomae.networks.tokens import (
    expand_mask,
    gather_tokens,
    patchify,
    scatter_tokens,
    unpatchify,
    visible_tokens,
)

GRID, TOKEN = (2, 3, 4), (4, 2, 3)  # three different sides each
SIZE = tuple(g * t for g, t in zip(GRID, TOKEN, strict=True))


def test_token_holds_the_voxels_of_its_place():
    volume = torch.randn(2, 3, *SIZE)
    tokens = patchify(volume, TOKEN)

    i, j, k = 1, 2, 1
    block = volume[:, :, i * 4 : (i + 1) * 4, j * 2 : (j + 1) * 2, k * 3 : (k + 1) * 3]
    assert torch.equal(tokens[:, (i * 3 + j) * 4 + k], block.flatten(1))


def test_unpatchify_inverts_patchify():
    volume = torch.randn(2, 3, *SIZE)

    assert torch.equal(unpatchify(patchify(volume, TOKEN), GRID, TOKEN, channels=3), volume)


def test_mask_over_voxels_covers_the_voxels_of_masked_tokens():
    mask = torch.rand(2, 24) < 0.5
    voxel_mask = expand_mask(mask, GRID, TOKEN)

    assert voxel_mask.shape == (2, 1, *SIZE) and voxel_mask.dtype == torch.bool
    assert torch.equal(patchify(voxel_mask, TOKEN), mask.unsqueeze(-1).expand(-1, -1, 24))
    assert torch.equal(expand_mask(mask[:, None], GRID, TOKEN), voxel_mask[:, None])  # a mask of several


def test_volume_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="does not divide"):
        patchify(torch.zeros(1, 1, 8, 6, 13), TOKEN)


def test_visible_tokens_are_those_not_masked_in_order():
    mask = torch.tensor([[True, False, True, False], [False, True, True, False]])

    assert visible_tokens(mask).tolist() == [[1, 3], [0, 3]]
    assert visible_tokens(mask[:, None]).tolist() == [[[1, 3]], [[0, 3]]]


@pytest.mark.parametrize("rows", [[[True, False], [False, False]], [[True, True], [True, True]]])
def test_uneven_or_full_mask_is_refused(rows):
    with pytest.raises(ValueError, match="same number of tokens visible"):
        visible_tokens(torch.tensor(rows))


def test_scatter_puts_gathered_tokens_back():
    tokens, ids = torch.randn(2, 5, 7), torch.tensor([[0, 3], [1, 4]])
    restored = scatter_tokens(gather_tokens(tokens, ids), ids, torch.zeros_like(tokens))

    for row in range(2):
        for token in range(5):
            expected = tokens[row, token] if token in ids[row] else torch.zeros(7)
            assert torch.equal(restored[row, token], expected)
