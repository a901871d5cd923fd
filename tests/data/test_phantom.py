from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import label as connected_components
from skimage.measure import euler_number

from nnunet_topomae.data.phantom import LABELS, phantom_case, write_phantom_dataset

BETTI_NUMBERS = {"ball": (1, 0, 0), "torus": (1, 1, 0), "shell": (1, 0, 1), "vessels": (2, 0, 0)}


def betti_numbers(mask: np.ndarray) -> tuple[int, int, int]:
    """Components and cavities by flood fill (26- and 6-connected), tunnels from the Euler characteristic."""
    mask = np.pad(mask, 1)
    components = connected_components(mask, np.ones((3, 3, 3)))[1]
    cavities = connected_components(~mask)[1] - 1
    return components, components + cavities - euler_number(mask, connectivity=3), cavities


@pytest.mark.parametrize("width", [32, 48])
@pytest.mark.parametrize("seed", range(8))
def test_topology_of_each_class(seed: int, width: float) -> None:
    _, label, _ = phantom_case(np.random.default_rng(seed), width)
    assert {name: betti_numbers(label == LABELS[name]) for name in BETTI_NUMBERS} == BETTI_NUMBERS


def test_no_threshold_tells_classes_apart() -> None:
    cases = [phantom_case(np.random.default_rng(seed), 40)[:2] for seed in range(6)]
    image, label = (np.concatenate([case[i].ravel() for case in cases]) for i in (0, 1))
    best = {}
    for name in BETTI_NUMBERS:
        mask = label == LABELS[name]
        above = [image > threshold for threshold in range(0, 1600, 25)]
        best[name] = max(2 * (mask & found).sum() / (mask.sum() + found.sum()) for found in above)
    assert np.mean(list(best.values())) < 0.4 and max(best.values()) < 0.7, best


def test_written_data_set_is_nnunet_raw_format(tmp_path: Path) -> None:
    description = write_phantom_dataset(tmp_path, num_training=2, num_test=1, seed=3, width=32)
    assert json.loads((tmp_path / "dataset.json").read_text()) == description
    assert description["numTraining"] == 2 and description["labels"] == LABELS
    cases = [path.name.removesuffix("_0000.nii.gz") for path in sorted(tmp_path.glob("images*/*"))]
    assert cases == ["phantom_tr_000", "phantom_tr_001", "phantom_ts_000"]
    for case, split in zip(cases, ("Tr", "Tr", "Ts"), strict=True):
        image = sitk.ReadImage(str(tmp_path / f"images{split}" / f"{case}_0000.nii.gz"))
        label = sitk.ReadImage(str(tmp_path / f"labels{split}" / f"{case}.nii.gz"))
        assert image.GetSize() == label.GetSize() and image.GetSpacing() == label.GetSpacing()
        assert image.GetSpacing()[:2] == (1, 1) and round(image.GetSpacing()[2], 3) in (1, 1.2)
        assert set(np.unique(sitk.GetArrayFromImage(label))) == set(LABELS.values())


def test_seed_decides_and_cases_differ(tmp_path: Path) -> None:
    def voxels(folder: str, case: str) -> bytes:
        image = sitk.ReadImage(str(tmp_path / folder / f"images{case[:2]}" / f"phantom_{case.lower()}_0000.nii.gz"))
        return sitk.GetArrayFromImage(image).tobytes()

    for folder, seed in (("first", 0), ("again", 0), ("other", 1)):
        write_phantom_dataset(tmp_path / folder, num_training=2, num_test=1, seed=seed, width=32)
    assert voxels("first", "Tr_000") == voxels("again", "Tr_000")
    assert len({voxels("first", case) for case in ("Tr_000", "Tr_001", "Ts_000")} | {voxels("other", "Tr_000")}) == 4


def test_too_small_a_volume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        write_phantom_dataset(tmp_path, num_training=1, num_test=0, seed=0, width=20)
