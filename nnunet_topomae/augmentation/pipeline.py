"""nnU-Net's pipeline of transforms, cut into what a data worker does and what is done on the device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform

from nnunet_topomae.augmentation import spatial
from nnunet_topomae.augmentation.blur import DeviceGaussianBlurTransform
from nnunet_topomae.augmentation.masked_fill import DeviceMaskImageTransform, DeviceRemoveLabelTransform
from nnunet_topomae.augmentation.noise import DeviceGaussianNoiseTransform
from nnunet_topomae.augmentation.regions import DeviceConvertSegmentationToRegionsTransform
from nnunet_topomae.data.crop_place import Resample

REPLACEMENTS: dict[type[BasicTransform], type[BasicTransform]] = {
    SpatialTransform: spatial.DeviceSpatialTransform,
    GaussianNoiseTransform: DeviceGaussianNoiseTransform,
    GaussianBlurTransform: DeviceGaussianBlurTransform,
    MaskImageTransform: DeviceMaskImageTransform,
    RemoveLabelTransform: DeviceRemoveLabelTransform,
    ConvertSegmentationToRegionsTransform: DeviceConvertSegmentationToRegionsTransform,
}
SAFE_AS_THEY_ARE = (  # once their parameters have been drawn on the CPU
    Convert3DTo2DTransform,
    Convert2DTo3DTransform,
    MultiplicativeBrightnessTransform,
    ContrastTransform,
    SimulateLowResolutionTransform,
    GammaTransform,
    MirrorTransform,
    DownsampleSegForDSTransform,
    Resample,
)


class UnknownTransformError(ValueError):
    """A transform, `what`, that is not known to give the same on a device. The message says what to do."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"{what} is not known to work on the training device: set NNUNET_TOPOMAE_AUGMENT_ON=workers, and data "
            "workers will augment as in nnU-Net"
        )


class SplitPipeline(NamedTuple):
    """Two halves of a pipeline, one after the other the same as the whole."""

    in_worker: BasicTransform
    on_device: BasicTransform


def split_pipeline(pipeline: BasicTransform) -> SplitPipeline:
    """Raises UnknownTransformError.

    If the pipeline begins with nnU-Net's spatial transform, a data worker draws that: a sample that is only cropped
    leaves it with a fraction of its voxels. Everything else is done on the device.
    """
    transforms = list(_flat(pipeline))
    safe = [_on_device(transform) for transform in transforms]
    first = 1 if transforms and type(transforms[0]) is Convert3DTo2DTransform else 0
    in_worker: list[BasicTransform] = []
    if first < len(transforms) and isinstance(transforms[first], SpatialTransform):
        in_worker = [*transforms[:first], spatial.DrawWarp(transforms[first])]
        safe = safe[first:]
    return SplitPipeline(ComposeTransforms(in_worker), ComposeTransforms(safe))


def _flat(pipeline: BasicTransform) -> Iterable[BasicTransform]:
    if type(pipeline) is not ComposeTransforms:
        return [pipeline]
    return [transform for part in pipeline.transforms for transform in _flat(part)]


def _on_device(transform: BasicTransform) -> BasicTransform:
    """The same distribution and the same draws, wherever the sample lies."""
    kind = type(transform)
    if kind is ComposeTransforms:
        return ComposeTransforms([_on_device(each) for each in transform.transforms])
    if kind is RandomTransform:
        return RandomTransform(_on_device(transform.transform), transform.apply_probability)
    if kind is OneOfTransform:
        return OneOfTransform([_on_device(each) for each in transform.list_of_transforms])
    if kind not in REPLACEMENTS and kind not in SAFE_AS_THEY_ARE:
        raise UnknownTransformError(f"the transform {kind.__name__}")
    refused = spatial.refusal(transform) if isinstance(transform, SpatialTransform) else None
    refused = refused or _draw_that_may_look(transform)
    if refused:
        raise UnknownTransformError(f"{kind.__name__} with {refused}")
    if kind in REPLACEMENTS:
        settings = vars(transform)
        transform = object.__new__(REPLACEMENTS[kind])
        vars(transform).update(settings)
    return DrawnOnCPU(transform)


def _draw_that_may_look(transform: BasicTransform) -> str | None:
    """A parameter that is drawn by a function, which is shown the image, unless it is known not to look at it."""
    for name, value in vars(transform).items():
        if callable(value) and not isinstance(getattr(value, "__self__", value), BGContrast):
            return f"a function for {name}, which might look at the image,"
    return None


class DrawnOnCPU(BasicTransform):
    """Draws a transform's parameters as if the sample lay on the CPU, so that no draw waits for the device."""

    def __init__(self, transform: BasicTransform) -> None:
        super().__init__()
        self.transform = transform

    def get_parameters(self, **sample: Any) -> dict[str, Any]:
        return self.transform.get_parameters(**{name: _without_voxels(value) for name, value in sample.items()})

    def apply(self, sample: dict[str, Any], **params: Any) -> dict[str, Any]:
        return self.transform.apply(sample, **params)


def _without_voxels(value: Any) -> Any:
    """A tensor's shape and type on the CPU, in the memory of one number."""
    return torch.zeros((), dtype=value.dtype).expand(value.shape) if isinstance(value, torch.Tensor) else value
