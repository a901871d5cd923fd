import torch

from nnunet_topomae.losses.reconstruction import masked_mean


def test_only_masked_voxels_count_in_all_channels():
    values = torch.full((2, 3, 4, 4, 4), 5.0)
    mask = torch.zeros(2, 1, 4, 4, 4, dtype=torch.bool)
    mask[:, :, :2] = True
    values[:, :, :2] = 3.0
    assert masked_mean(values, mask).item() == 3
