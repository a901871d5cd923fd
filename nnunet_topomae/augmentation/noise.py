"""Gaussian noise, drawn where the image lies."""

from __future__ import annotations

from typing import Any

import torch
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform


class DeviceGaussianNoiseTransform(GaussianNoiseTransform):
    """Channels are counted on the host: an index on the CPU cannot address an image on a GPU."""

    def _apply_to_image(self, img: torch.Tensor, **params: Any) -> torch.Tensor:
        channels, sigmas = params["apply_idx"].tolist(), params["sigmas"]
        if sigmas is None:
            return img
        noise = torch.empty((len(channels), *img.shape[1:]), device=img.device, dtype=img.dtype).normal_()
        for i, channel in enumerate(channels):
            img[channel].add_(noise[i], alpha=float(sigmas if self.synchronize_channels else sigmas[i]))
        return img
