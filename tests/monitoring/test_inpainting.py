import pytest
import torch

from nnunet_topomae.monitoring.inpainting import harmonic_inpainting


def box_mask(shape: tuple[int, ...]) -> torch.Tensor:
    mask = torch.zeros(1, 1, *shape, dtype=torch.bool)
    mask[..., 2:5, 1:6, 3:5] = True
    return mask


def test_a_linear_ramp_is_harmonic():
    ramp = sum(
        slope * axis
        for slope, axis in zip((1.0, -2.0, 0.5), torch.meshgrid(*map(torch.arange, (7, 8, 9))), strict=True)
    )
    image = torch.stack([ramp, 3 - ramp])[None]  # two channels
    mask = box_mask(ramp.shape)
    assert torch.allclose(harmonic_inpainting(image.masked_fill(mask, torch.nan), mask), image, atol=1e-3)


def test_each_masked_voxel_is_the_mean_of_its_neighbours_also_at_the_border():
    image, mask = torch.randn(1, 1, 6, 6, 6), torch.zeros(1, 1, 6, 6, 6, dtype=torch.bool)
    mask[..., :3, :3, :3] = True
    filled = harmonic_inpainting(image, mask)[0, 0]
    assert torch.equal(filled[~mask[0, 0]], image[0, 0][~mask[0, 0]])
    around = [filled[0, 1, 1], filled[2, 1, 1], filled[1, 0, 1], filled[1, 2, 1], filled[1, 1, 0], filled[1, 1, 2]]
    assert filled[1, 1, 1].item() == pytest.approx(torch.stack(around).mean().item(), abs=1e-3)
    corner = torch.stack([filled[1, 0, 0], filled[0, 1, 0], filled[0, 0, 1]]).mean()
    assert filled[0, 0, 0].item() == pytest.approx(corner.item(), abs=1e-3)


def test_along_a_side_of_one_voxel_nothing_flows_out():
    mask = torch.tensor([False, True, True, False]).view(1, 1, 1, 1, 4)
    image = torch.tensor([4.0, torch.nan, torch.nan, 4]).view(1, 1, 1, 1, 4)
    assert torch.allclose(harmonic_inpainting(image, mask), torch.tensor(4.0), atol=1e-3)
