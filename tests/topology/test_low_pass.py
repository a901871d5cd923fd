"""Beside SciPy's Gaussian filter."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import gaussian_filter

from nnunet_topomae.topology.low_pass import REACH, low_pass


def test_inside_it_is_a_gaussian_filter_taken_every_few_voxels() -> None:
    volume = torch.rand(39, 40, 41, dtype=torch.float64)
    filtered = gaussian_filter(volume.numpy(), (3, 0, 0), truncate=REACH)[1::3]  # the middle of three voxels
    assert torch.allclose(low_pass(volume, (3, 1, 1))[4:-4], torch.from_numpy(filtered)[4:-4])


@pytest.mark.parametrize("shape", [(8, 8, 8), (5, 16, 7), (1, 3, 33)])
def test_a_constant_stays_one_whatever_the_sides(shape: tuple[int, int, int]) -> None:
    means = low_pass(torch.full((2, 1, *shape), 3.0), (2, 4, 2))
    assert means.shape == (2, 1, *(-(-side // step) for side, step in zip(shape, (2, 4, 2), strict=True)))
    assert torch.allclose(means, torch.tensor(3.0))


def test_its_gradient_is_that_of_finite_differences() -> None:
    volume = torch.rand(1, 1, 5, 6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: low_pass(x, (2, 1, 2)), volume)


def test_a_gradient_is_had_after_a_first_use_without() -> None:
    volume = torch.rand(1, 1, 9, 9, 9, requires_grad=True)
    with torch.inference_mode():
        low_pass(volume, (3, 3, 3))
    low_pass(volume, (3, 3, 3)).sum().backward()
    assert volume.grad is not None and volume.grad.sum().item() == pytest.approx(27)
