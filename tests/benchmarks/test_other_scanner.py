import json
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.stats import spearmanr

from nnunet_topomae.data.phantom import write_phantom_dataset

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from other_scanner import other_scanner, write_dataset  # noqa: E402


@pytest.mark.parametrize(("invert", "sign"), [(False, 1), (True, -1)])
def test_contrast_is_another_but_for_inversion_in_the_same_order(invert, sign):
    image = np.random.default_rng(0).normal(200, 40, (24, 20, 16)).cumsum(axis=0).astype(np.int16)
    changed = other_scanner(image, invert, seed=1)
    assert changed.dtype == np.float32 and changed.min() == image.min() and changed.max() == image.max()
    assert sign * spearmanr(image.ravel(), changed.ravel())[0] > 0.7
    assert not np.allclose(changed, other_scanner(image, invert, seed=2))


def test_images_with_labels_and_all_labels_stay_as_they_are(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    write_phantom_dataset(source, 3, 0, seed=0, width=32)
    cases = [f"phantom_tr_00{number}" for number in range(3)]
    split = {"labelled": cases[:1], "unlabelled": cases[1:2], "val": cases[2:]}
    (source / "few_label_splits.json").write_text(json.dumps({"1": split, "3": {"labelled": cases}}))
    write_dataset(source, target, [1], invert=False)
    same = {
        file.name: np.array_equal(
            *(sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in (file, source / file.relative_to(target)))
        )
        for file in target.glob("*Tr/*")
    }
    changed = {name for name, is_same in same.items() if not is_same}
    assert len(same) == 6 and changed == {f"{case}_0000.nii.gz" for case in cases[1:]}
    assert json.loads((target / "few_label_splits.json").read_text()) == {"1": split}
