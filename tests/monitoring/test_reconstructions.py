import math

import pytest
import torch

from nnunet_topomae.monitoring.reconstructions import mean_over_cases, psnr


def test_psnr_is_that_of_a_known_error_on_masked_voxels():
    target = torch.linspace(0, 4, 64).reshape(1, 1, 4, 4, 4)
    mask = torch.zeros_like(target, dtype=torch.bool)
    mask[0, 0, 0] = True
    wrong_elsewhere = target + torch.where(mask, 0.5, 9.0)
    assert psnr(wrong_elsewhere, target, mask) == pytest.approx(10 * math.log10(4**2 / 0.5**2), abs=1e-4)


def test_means_are_taken_by_network_and_a_constant_crop_which_has_no_psnr_does_not_spoil_them():
    constant = torch.ones(1, 1, 4, 4, 4)
    undefined = psnr(constant + 0.5, constant, torch.ones_like(constant, dtype=torch.bool))
    assert math.isnan(undefined)
    cases = [{"metrics": {"vit": {"psnr": vit}, "partner": {"psnr": vit / 10}}} for vit in (undefined, 10.0, 20.0)]
    assert mean_over_cases(cases) == {"vit": {"psnr": 15.0}, "partner": {"psnr": 1.5}}
    assert math.isnan(mean_over_cases(cases[:1])["vit"]["psnr"])
