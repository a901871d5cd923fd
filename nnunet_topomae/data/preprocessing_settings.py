"""What preprocessing made of an image depends on, besides the image: stored with what it made, compared before use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_topomae.data.dataset_json import channel_names
from nnunet_topomae.planning.plans_file import Plans, configuration_of

Settings = dict[str, Any]

# nnU-Net's schemes that look at one image alone; others get the statistics of the labelled images.
SCHEMES_OF_ONE_IMAGE = {
    "ZScoreNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
}


def preprocessing_settings(plans: Plans, configuration_name: str, dataset_json: Mapping[str, Any]) -> Settings:
    """Everything in plans and dataset.json that nnU-Net's preprocessor reads to make an image, as plain JSON values.

    Labels and how they are resampled are not in it, nor is what training alone reads (patch, batch, architecture).

    Raises:
        ValueError: no such configuration.
    """
    manager, configuration = PlansManager(plans), configuration_of(plans, configuration_name).configuration
    schemes = configuration["normalization_schemes"]
    statistics = manager.foreground_intensity_properties_per_channel
    return {
        "channel_names": channel_names(dataset_json),
        "image_reader_writer": plans["image_reader_writer"],
        "transpose_forward": list(plans["transpose_forward"]),
        "spacing": list(configuration["spacing"]),
        "preprocessor_name": configuration["preprocessor_name"],
        "normalization_schemes": list(schemes),
        "use_mask_for_norm": list(configuration["use_mask_for_norm"]),
        "foreground_intensity_properties_per_channel": {
            str(channel): statistics[str(channel)]
            for channel, scheme in enumerate(schemes)
            if scheme not in SCHEMES_OF_ONE_IMAGE
        },
        "resampling_fn_data": configuration["resampling_fn_data"],
        "resampling_fn_data_kwargs": configuration["resampling_fn_data_kwargs"],
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The entries in which two of them differ, each with both values. Equal to six digits is equal."""
    return [
        name if name == "foreground_intensity_properties_per_channel" else f"{name} {then.get(name)} -> {now.get(name)}"
        for name in {**now, **then}
        if not _alike(then.get(name), now.get(name))
    ]


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, float) or isinstance(b, float):
        numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
        return numbers and math.isclose(a, b, rel_tol=1e-6)
    return a == b
