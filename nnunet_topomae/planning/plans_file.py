"""Plans files: read one that nnU-Net made, write a variant beside it, never over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_topomae.networks.geometry import Geometry, geometry_from_plan

Plans = dict[str, Any]


def dataset_folder(dataset: str) -> Path:
    """The folder of a dataset (id or name) in nnUNet_preprocessed, where nnU-Net keeps plans and splits."""
    return Path(nnUNet_preprocessed, maybe_convert_to_dataset_name(dataset))


def read_plans(folder: Path, name: str) -> Plans:
    """The plans of that name.

    Raises:
        FileNotFoundError: names the plans that there are.
        ValueError: the file holds no plans.
    """
    file = folder / f"{name}.json"
    if file.is_file():
        return _parse_plans(file)
    others = sorted(path.stem for path in folder.glob("*.json") if '"configurations"' in path.read_text())
    hint = f"name another with -p: {', '.join(others)}" if others else "run nnUNetv2_plan_and_preprocess first"
    raise FileNotFoundError(f"{file} does not exist: {hint}")


def _parse_plans(file: Path) -> Plans:
    try:
        plans = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no valid JSON: {error}") from error
    if not isinstance(plans, dict) or not isinstance(plans.get("configurations"), dict):
        raise ValueError(f"{file} holds no plans of nnU-Net: there must be an object with 'configurations'")
    return plans


def configuration_of(plans: Plans, name: str) -> ConfigurationManager:
    """nnU-Net's view of one configuration. Raises ValueError, whatever is wrong with the plans."""
    try:
        if name not in plans["configurations"]:
            raise ValueError(f"the plans hold no configuration {name!r}, only {', '.join(plans['configurations'])}")
        return PlansManager(plans).get_configuration(name)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"nnU-Net cannot read configuration {name!r} of the plans: {error!r}") from error


def geometry_of(configuration: ConfigurationManager) -> Geometry:
    """The geometry of both networks for one configuration of a plan. Raises ValueError that says what is wrong."""
    try:
        patch_size, strides = configuration.patch_size, configuration.pool_op_kernel_sizes
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"the configuration in the plans has no patch_size or no architecture.arch_kwargs.strides ({error!r}): "
            "plan the dataset again with nnUNetv2_plan_experiment"
        ) from error
    return geometry_from_plan(patch_size, strides)


def read_dataset_json(folder: Path) -> dict[str, Any]:
    """The dataset.json that nnU-Net's planner copies beside the plans."""
    return json.loads((folder / "dataset.json").read_text())


def require_new(file: Path, remedy: str) -> Path:
    """`file`, or a FileExistsError that says what to do instead of overwriting it."""
    if file.exists():
        raise FileExistsError(f"{file} exists and is not overwritten: {remedy}")
    return file


def new_plans_file(folder: Path, name: str) -> Path:
    """The path of plans to be written. Raises FileExistsError."""
    return require_new(folder / f"{name}.json", "choose another name with -o")


def write_json(file: Path, content: Any) -> Path:
    """Write with NumPy numbers and arrays as plain ones."""
    file.write_text(json.dumps(content, indent=4, default=lambda value: np.asarray(value).tolist()) + "\n")
    return file
