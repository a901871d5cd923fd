from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_topomae.evaluation.held_out import HeldOut

SPACING = [3.0, 1.0, 0.5]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two labelled .tif cases of two channels and one test case, with spacing beside images and labels."""
    raw = tmp_path / "Dataset200_Tif"
    for split, cases in (("Tr", ["a", "b.1"]), ("Ts", ["c"])):
        images, labels = raw / f"images{split}", raw / f"labels{split}"
        for folder in (images, labels):
            folder.mkdir(parents=True)
        for case in cases:
            for channel in range(2):
                tifffile.imwrite(images / f"{case}_{channel:04d}.tif", np.full((4, 5, 6), channel, np.float32))
            tifffile.imwrite(labels / f"{case}.tif", np.ones((4, 5, 6), np.uint8))
            for folder in (images, labels):
                (folder / f"{case}.json").write_text(json.dumps({"spacing": SPACING}))
    description = {
        "labels": {"background": 0, "organ": 1},
        "file_ending": ".tif",
        "channel_names": {"0": "T1", "1": "T2"},
        "numTraining": 2,
        "overwrite_image_reader_writer": "Tiff3DIO",
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["a"], "val": ["b.1"]}]))
    return raw


@pytest.mark.parametrize("held_out", ["test cases", "validation cases"])
def test_linked_images_keep_their_spacing(raw, tmp_path, held_out):
    (folder := tmp_path / "links").mkdir()
    if held_out == "validation cases":
        for file in (raw / "labelsTs").iterdir():
            file.unlink()
    linked = HeldOut.link(raw, tmp_path, folder)
    ((name, case),) = linked.test.items()
    channels = [str(linked.images / f"{name}_{channel:04d}.tif") for channel in range(2)]
    image, properties = Tiff3DIO().read_images(channels)
    assert image.shape == (2, 4, 5, 6) and properties["spacing"] == SPACING
    assert Tiff3DIO().read_seg(str(linked.labels / f"{name}.tif"))[1]["spacing"] == SPACING
    assert linked.read_image(case)[1] == tuple(SPACING)


def test_without_a_companion_there_is_no_broken_link(raw, tmp_path):
    for file in raw.glob("*/*.json"):
        file.unlink()
    (folder := tmp_path / "links").mkdir()
    linked = HeldOut.link(raw, tmp_path, folder)
    assert sorted(file.name for file in linked.images.iterdir()) == ["c_0000.tif", "c_0001.tif"]
