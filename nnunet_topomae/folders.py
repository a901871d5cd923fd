"""Where the top-level folders `trainers` and `plans` are: a wheel carries them inside the package."""

from __future__ import annotations

from pathlib import Path


def shipped_folder(name: str) -> Path:
    """The folder `_<name>` of the installed package, or `<name>` beside it (source tree, editable installation)."""
    package = Path(__file__).resolve().parent
    for folder in (package / f"_{name}", package.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no {package / f'_{name}'} nor {package.parent / name}: install nnunet-topomae anew")
