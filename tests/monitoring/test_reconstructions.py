import math

import pytest
import torch

from nnunet_topomae.monitoring.reconstructions import mean_over_cases, psnr


def test_psnr_is_that_of_a_known_error():
    target = torch.linspace(0, 4, 64).reshape(1, 1, 4, 4, 4)
    mask = torch.ones_like(target, dtype=torch.bool)
    assert psnr(target + 0.5, target, mask) == pytest.approx(10 * math.log10(4**2 / 0.5**2), abs=1e-4)


def test_psnr_looks_at_masked_voxels_alone():
    target = torch.linspace(0, 4, 64).reshape(1, 1, 4, 4, 4)
    mask = torch.zeros_like(target, dtype=torch.bool)
    mask[0, 0, 0] = True
    wrong_elsewhere = target + torch.where(mask, 0.5, 9.0)
    assert psnr(wrong_elsewhere, target, mask) == pytest.approx(10 * math.log10(4**2 / 0.5**2), abs=1e-4)


def test_means_are_taken_by_network():
    cases = [
        {"metrics": {"vit": {"psnr": 10.0}, "partner": {"psnr": 1.0}}},
        {"metrics": {"vit": {"psnr": 20.0}, "partner": {"psnr": 2.0}}},
    ]
    assert mean_over_cases(cases) == {"vit": {"psnr": 15.0}, "partner": {"psnr": 1.5}}


def test_a_constant_crop_has_no_psnr_and_does_not_spoil_the_mean():
    constant = torch.ones(1, 1, 4, 4, 4)
    undefined = psnr(constant + 0.5, constant, torch.ones_like(constant, dtype=torch.bool))
    assert math.isnan(undefined)
    cases = [{"metrics": {branch: {"psnr": value} for branch in ("vit", "partner")}} for value in (undefined, 20.0)]
    assert mean_over_cases(cases)["vit"] == {"psnr": 20.0}
    assert math.isnan(mean_over_cases(cases[:1])["vit"]["psnr"])
