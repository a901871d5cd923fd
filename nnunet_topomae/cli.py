"""The command `nnunet-topomae`: what nnU-Net's own commands do not do."""

from __future__ import annotations

from pathlib import Path


def trainers_folder() -> Path:
    """Where nnU-Net is to find the trainers: in the package (installed) or beside it (source tree, editable)."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_trainers", package.parent / "trainers"):
        if (folder / "TopoMAEPretrainer.py").is_file():
            return folder
    raise FileNotFoundError(f"no trainers in {package / '_trainers'} nor beside {package}: install nnunet-topomae anew")
