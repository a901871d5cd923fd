"""Plans files: read one that nnU-Net made, write a variant beside it, never over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_topomae.files import read_json

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
        plans = read_json(file)
        if not isinstance(plans, dict) or not isinstance(plans.get("configurations"), dict):
            raise ValueError(f"{file} holds no plans of nnU-Net: there must be an object with 'configurations'")
        return plans
    others = sorted(path.stem for path in folder.glob("*.json") if '"configurations"' in path.read_text())
    hint = f"name another with -p: {', '.join(others)}" if others else "run nnUNetv2_plan_and_preprocess first"
    raise FileNotFoundError(f"{file} does not exist: {hint}")


def configuration_of(plans: Plans, name: str) -> ConfigurationManager:
    """nnU-Net's view of one configuration. Raises ValueError, whatever is wrong with the plans."""
    try:
        if name not in plans["configurations"]:
            raise ValueError(f"the plans hold no configuration {name!r}, only {', '.join(plans['configurations'])}")
        configuration = PlansManager(plans).get_configuration(name)
        batch_size = configuration.configuration.get("batch_size", 1)
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"batch_size in the plans must be an integer of at least 1, not {batch_size!r}")
        return configuration
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"nnU-Net cannot read configuration {name!r} of the plans: {error!r}") from error


def require_new(file: Path, remedy: str) -> Path:
    """`file`, or a FileExistsError that says what to do instead of overwriting it."""
    if file.exists():
        raise FileExistsError(f"{file} exists and is not overwritten: {remedy}")
    return file


def new_plans_file(folder: Path, name: str) -> Path:
    """The path of plans to be written. Raises FileExistsError."""
    return require_new(folder / f"{name}.json", "choose another name with -o")
