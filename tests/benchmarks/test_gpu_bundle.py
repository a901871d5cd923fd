import sys
from importlib.metadata import version
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from gpu_bundle import in_bundles, needed  # noqa: E402


def test_what_is_there_is_left_out_with_all_that_it_alone_needs():
    packages = dict(package.split("==") for package in needed("nnunet-topomae", {"torch", "imagecodecs"}))
    assert packages["nnunetv2"] == version("nnunetv2") and "batchgeneratorsv2" in packages
    assert {"pytest", "hypothesis", "numba", "llvmlite"} <= packages.keys()
    assert not {"torch", "triton", "imagecodecs", "nnunet-topomae", "ruff"} & packages.keys()


def test_bundles_hold_everything_once_and_no_more_than_they_may():
    sizes = {"a": 53, "b": 40, "c": 24, "d": 11, "e": 1}
    bundles = in_bundles(sizes, most=64)
    assert sorted(name for bundle in bundles for name in bundle) == sorted(sizes)
    assert len(bundles) == 3 and all(sum(sizes[name] for name in bundle) <= 64 for bundle in bundles)


def test_a_wheel_that_fits_into_no_bundle_is_named():
    with pytest.raises(SystemExit, match="torch.whl has 900 MiB"):
        in_bundles({"torch.whl": 900 * 2**20})
