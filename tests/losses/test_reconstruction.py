import pytest
import torch

from nnunet_topomae.losses.reconstruction import masked_mean, reconstruction_loss, token_statistics


def test_only_masked_voxels_count():
    image = torch.zeros(2, 3, 4, 4, 4)
    reconstruction = torch.full_like(image, 5.0)
    mask = torch.zeros(2, 1, 4, 4, 4, dtype=torch.bool)
    mask[:, :, :2] = True
    reconstruction[:, :, :2] = 3.0
    assert reconstruction_loss(reconstruction, image, mask).item() == 9
    assert masked_mean(reconstruction, mask).item() == 3


def test_token_statistics_are_those_of_each_token():
    image = torch.randn(1, 2, 4, 6, 8)
    mean, std = token_statistics(image, (2, 3, 4))
    token = image[0, 1, 2:4, 3:6, 0:4]
    assert torch.allclose(mean[0, 1, 2:4, 3:6, 0:4], token.mean().expand(2, 3, 4), atol=1e-6)
    assert torch.allclose(std[0, 1, 2:4, 3:6, 0:4], token.std(unbiased=False).expand(2, 3, 4), atol=1e-5)


def test_a_constant_token_has_a_positive_deviation():
    assert token_statistics(torch.ones(1, 1, 4, 4, 4), (2, 2, 2))[1].min() > 0


def test_normalised_targets_weigh_errors_by_the_token():
    image = torch.randn(1, 1, 4, 4, 4) * 10
    mask = torch.ones(1, 1, 4, 4, 4, dtype=torch.bool)
    std = token_statistics(image, (4, 4, 4))[1]
    assert reconstruction_loss(image + std, image, mask, std).item() == pytest.approx(1, rel=1e-5)
