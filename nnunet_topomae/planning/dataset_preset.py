"""Dataset presets: patch, pooling, split and schedule of the literature on a public dataset, as data in `plans/`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_topomae.config import PLANS_SECTION, TopoMAEConfig
from nnunet_topomae.files import is_list_of_names, read_json, write_json
from nnunet_topomae.folders import shipped_folder
from nnunet_topomae.planning.configuration import Strides, with_patch
from nnunet_topomae.planning.plans_file import Plans, configuration_of, new_plans_file, read_plans, require_new

CONFIGURATION = "3d_fullres"

NEEDED = {"convert", "patch_size", "topomae", "split"}


@dataclass(frozen=True)
class DatasetPreset:
    """What plans/README.md describes, as far as the software uses it.

    Attributes:
        name: of the file, without its ending.
        convert: the command that makes the nnU-Net dataset whose case names the split uses.
        patch_size: voxels, in the axis order of nnU-Net's plan.
        strides: of nnU-Net's stages; None: nnU-Net's own for this patch.
        spacing: mm, in the same order; None: nnU-Net's own.
        topomae: knobs that differ from what the plan says.
        split: cases of `train`, `val` and perhaps `test`; `test` is in no fold.
    """

    name: str
    convert: str
    patch_size: Sequence[int]
    strides: Strides | None
    spacing: Sequence[float] | None
    topomae: dict[str, Any]
    split: dict[str, list[str]]


def preset_names() -> list[str]:
    return sorted(path.stem for path in shipped_folder("plans").glob("*.json"))


def load_preset(name: str) -> DatasetPreset:
    """A preset of `plans/` by its name, or one of yours by the path of its file.

    Raises:
        ValueError: no such preset, or no preset in the file; a case that is listed twice.
        ConfigError: a bad knob.
    """
    file = Path(name) if name.endswith(".json") else shipped_folder("plans") / f"{name}.json"
    if not file.is_file():
        raise ValueError(f"no preset {name!r}: take one of {', '.join(preset_names())}, or the path of a .json file")
    content = read_json(file)
    if fault := _fault(content):
        raise ValueError(f"{file} {fault}: see plans/README.md")
    content = {"strides": None, "spacing": None, **content}
    TopoMAEConfig.from_plans(content)
    cases = [case for part in content["split"].values() for case in part]
    twice = sorted({case for case in cases if cases.count(case) > 1})
    if twice:
        raise ValueError(f"{file}: listed more than once: {', '.join(twice)}")
    return DatasetPreset(file.stem, **{field.name: content[field.name] for field in fields(DatasetPreset)[1:]})


def _fault(content: Any) -> str:
    """What keeps the content of a file from being a preset, in words; empty if nothing does."""
    missing = sorted(NEEDED - content.keys()) if isinstance(content, dict) else sorted(NEEDED)
    if missing:
        return f"has no {', '.join(missing)}"
    split, strides, spacing = (content.get(key) for key in ("split", "strides", "spacing"))
    if not isinstance(split, dict) or not all(map(is_list_of_names, split.values())):
        return "has no lists of cases in split"
    if not split.get("train") or not split.get("val"):
        return "has no cases of train or val in split"
    if not _is_triple(content["patch_size"], int):
        return "has no three sides of a patch, in voxels"
    if strides is not None and not (isinstance(strides, list) and all(_is_triple(row, int) for row in strides)):
        return "has strides that are no rows of three"
    return "" if spacing is None or _is_triple(spacing, int, float) else "has a spacing that is not three numbers"


def _is_triple(values: Any, *kinds: type) -> bool:
    """Of positive numbers."""
    is_list = isinstance(values, list) and len(values) == 3
    return is_list and all(type(value) in kinds and value > 0 for value in values)


def apply_preset(
    preset: DatasetPreset, folder: Path, cases: Sequence[str], plans_name: str, new_name: str
) -> tuple[Path, Path]:
    """Write plans and `splits_final.json` of a dataset that nnU-Net has planned; return their paths.

    A split that exists is kept if it is the preset's own. All that can be wrong is checked before either is written.

    Args:
        preset: of the dataset.
        folder: of the dataset in nnUNet_preprocessed.
        cases: all training cases of the dataset.
        plans_name: the plans to start from.
        new_name: the plans to write.

    Raises:
        FileNotFoundError: no such plans.
        FileExistsError: the new plans, or another split, exist.
        ValueError: cases of the split are not in the dataset; no 3d_fullres in the plans; strides do not fit the patch.
    """
    missing = sorted(case for part in preset.split.values() for case in set(part) - set(cases))
    if missing:
        raise ValueError(
            f"{len(missing)} cases of the {preset.name} split are not in {folder.name}: {', '.join(missing)}. "
            f"Was the dataset converted with: {preset.convert} ?"
        )
    plans_file = new_plans_file(folder, new_name)
    plans = preset_plans(preset, read_plans(folder, plans_name), new_name)
    split_file, split = folder / "splits_final.json", [preset.split]
    if not (split_file.is_file() and json.loads(split_file.read_text()) == split):
        require_new(split_file, f"move it away for the {preset.name} split. Folds trained with it had other cases")
        write_json(split_file, split)
    return write_json(plans_file, plans), split_file


def preset_plans(preset: DatasetPreset, plans: Plans, new_name: str) -> Plans:
    """The variant of the plans; raises ValueError."""
    planned = configuration_of(plans, CONFIGURATION).configuration
    new = with_patch(planned, preset.patch_size, preset.strides, preset.spacing)
    if not np.allclose(new["spacing"], planned["spacing"]):
        new["data_identifier"] = f"{new_name}_{CONFIGURATION}"
    variant = {**deepcopy(plans), "plans_name": new_name}
    variant["configurations"][CONFIGURATION] = new
    variant[PLANS_SECTION] = {**plans.get(PLANS_SECTION, {}), **preset.topomae}
    return variant
