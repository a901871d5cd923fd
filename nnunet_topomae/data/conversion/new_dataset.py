"""A converted dataset appears whole or not at all, and takes the place of none."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets


@contextmanager
def new_dataset(raw: Path, dataset_id: int, name: str) -> Iterator[Path]:
    """An empty folder to write to, which becomes `raw/Dataset<ID>_<Name>` at the end, unless an error was raised.

    Raises:
        FileExistsError: nnU-Net has a dataset with this id.
    """
    if taken := [*find_candidate_datasets(dataset_id)]:
        raise FileExistsError(f"the id {dataset_id} is taken by {', '.join(taken)}: choose another one with -d")
    raw.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".converting", dir=raw) as folder:
        partial = Path(folder, f"Dataset{dataset_id:03d}_{name}")
        partial.mkdir()
        yield partial
        partial.rename(raw / partial.name)
