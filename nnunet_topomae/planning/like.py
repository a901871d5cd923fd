"""Plans for images as the weights of another training know them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from nnunet_topomae.networks.axes import axes_order
from nnunet_topomae.planning.configuration import Configuration, pooling, with_patch
from nnunet_topomae.planning.dataset_preset import CONFIGURATION
from nnunet_topomae.planning.plans_file import Plans, configuration_of


def plans_like(plans: Plans, theirs: Mapping[str, Any], transpose_forward: Sequence[int], new_name: str) -> Plans:
    """A variant with the spacing, normalisation and patch of `theirs`, in its one configuration, 3d_fullres.

    A patch is not larger than the median image at that spacing, as nnU-Net has it; strides and kernels follow.

    Args:
        plans: of nnU-Net; not changed.
        theirs: the configuration that the weights were trained with; what it does not say stays.
        transpose_forward: of their plans.
        new_name: of the variant.

    Raises:
        ValueError: no 3d_fullres in the plans; theirs is of 2D images; their channels were normalised each in its own
            way, and are not as many.
    """
    planned = configuration_of(plans, CONFIGURATION).configuration
    if len(theirs.get("patch_size") or (0, 0, 0)) != 3:
        raise ValueError(f"the weights know patches of {theirs['patch_size']} voxels: take those of a 3D configuration")
    axes = axes_order(transpose_forward, plans.get("transpose_forward", (0, 1, 2)))
    spacing, patch = (
        planned[key] if theirs.get(key) is None else [theirs[key][axis] for axis in axes]
        for key in ("spacing", "patch_size")
    )
    median = np.array(planned["median_image_size_in_voxels"]) * planned["spacing"] / spacing
    _, patch, _ = pooling(spacing, np.minimum(patch, np.ceil(median).astype(int)).tolist())
    new = with_patch(planned, patch, spacing=spacing)
    new["normalization_schemes"] = _schemes(theirs, planned)
    if any(not np.array_equal(new[key], planned[key]) for key in ("spacing", "normalization_schemes")):
        new["data_identifier"] = f"{new_name}_{CONFIGURATION}"
    return {**deepcopy(plans), "plans_name": new_name, "configurations": {CONFIGURATION: new}}


def _schemes(theirs: Mapping[str, Any], planned: Configuration) -> list[str]:
    own = planned["normalization_schemes"]
    schemes = list(theirs.get("normalization_schemes") or own)
    if len(set(schemes)) == 1:
        return schemes[:1] * len(own)
    if len(schemes) != len(own):
        raise ValueError(
            f"the weights know {len(schemes)} channels, normalised by {', '.join(schemes)}, these data have "
            f"{len(own)}: plan without --like, and write normalization_schemes into the plans yourself"
        )
    return schemes
