"""Gaussian blur as a sum of shifted images."""

from __future__ import annotations

from typing import Any

import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from torch.nn.functional import pad

from nnunet_topomae.private_names import gaussian_weights

TRUNCATE = 6  # batchgeneratorsv2's, in standard deviations from end to end


class DeviceGaussianBlurTransform(GaussianBlurTransform):
    """With the weights of batchgeneratorsv2, and no choice between FFT and convolution by the clock.

    The kernels are three to seven voxels long: shifting and adding is as fast as a convolution, which would round to
    TF32 or half precision on a GPU, and which measures for every new size what algorithm is best.
    """

    def _apply_to_image(self, img: torch.Tensor, **params: Any) -> torch.Tensor:
        channels = params["apply_to_channel"].nonzero().flatten().tolist()
        for i, channel in enumerate(channels):
            sigmas = params["sigmas"] if self.synchronize_channels else params["sigmas"][i]
            blurred = img[channel]
            for axis, sigma in enumerate(sigmas):
                blurred = blur(blurred, sigma, axis)
            img[channel] = blurred
        return img


def blur(volume: torch.Tensor, sigma: float, axis: int) -> torch.Tensor:
    """`volume` [*sides] smoothed along one axis, reflected at its ends."""
    weights = gaussian_weights(sigma, TRUNCATE)
    reach, side = len(weights) // 2, volume.shape[axis]
    if reach == 0:
        return volume
    around = [0, 0] * (volume.ndim - 1 - axis) + [reach, reach] + [0, 0] * axis
    padded = pad(volume[None], around, mode="reflect")[0]
    blurred = weights[0] * padded.narrow(axis, 0, side)
    for shift, weight in enumerate(weights[1:], start=1):
        blurred.add_(padded.narrow(axis, shift, side), alpha=weight)
    return blurred
