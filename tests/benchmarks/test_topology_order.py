"""The topological term at a scale and with a place likes the blurred truth better than another image's texture."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.data.phantom import write_phantom_dataset

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
order = SimpleNamespace(**runpy.run_path(str(BENCHMARKS / "topology_order.py")))
SHAPE, TEXTURE = TopoMAEConfig(topology_scale=4, topology_place=0.1), TopoMAEConfig()


@pytest.mark.parametrize("folder", ["Dataset004_Hippocampus/imagesTr", "Dataset020_Vessels/imagesTr", "ct"])
def test_on_real_images_the_plain_distance_is_not_in_order(shared_data: Path, folder: str) -> None:
    images = order.read_images(shared_data / folder, 32)
    assert order.in_order(order.measure(images, 32, 24, SHAPE))
    assert not order.in_order(order.measure(images, 32, 24, TEXTURE))


def test_on_the_phantom(tmp_path: Path) -> None:
    write_phantom_dataset(tmp_path, num_training=6, num_test=1, seed=0, width=48)
    images = order.read_images(tmp_path / "imagesTr", 32)
    assert order.in_order(order.measure(images, 32, 12, SHAPE))
