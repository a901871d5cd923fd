"""Where the top-level folders `trainers` and `plans` are: a wheel carries them inside the package."""

from __future__ import annotations

import os
from pathlib import Path

EXT_TRAINER = "nnUNet_extTrainer"


def shipped_folder(name: str) -> Path:
    """The folder `_<name>` of the installed package, or `<name>` beside it (source tree, editable installation)."""
    package = Path(__file__).resolve().parent
    for folder in (package / f"_{name}", package.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no {package / f'_{name}'} nor {package.parent / name}: install nnunet-topomae anew")


def trainers_folder() -> Path:
    """Where nnU-Net is to find the trainers."""
    return shipped_folder("trainers")


def external_trainers() -> str:
    """The value of nnUNet_extTrainer that adds our trainers to those that are set."""
    folders = [folder for folder in os.environ.get(EXT_TRAINER, "").split(os.pathsep) if folder]
    return os.pathsep.join(dict.fromkeys([*folders, str(trainers_folder())]))
