"""What a machine with a GPU and without a network needs for gpu_first_run.sh, made on one that has a network.

    python benchmarks/gpu_bundle.py FOLDER --there packages.txt [--python 3.12] [--width 128]
    python benchmarks/gpu_bundle.py FOLDER            # the data alone

packages.txt: what `pip list --format=freeze` prints on the other machine; PyTorch has to be there. FOLDER gets `data`,
a synthetic data set, planned and preprocessed, and `wheels_1`, `wheels_2`, ... of at most 64 MiB each: all that the
package needs, in the versions installed here, and the other machine lacks. There, once for each of them:

    python -m pip install --no-index --no-deps --target SITE FOLDER/wheels_1/*.whl    # then PYTHONPATH=SITE
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MAX_BYTES = 64 * 2**20
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)] + ["manylinux2014_x86_64"]
# Optional to what asks for it, and large: it reads compressed TIFF alone.
LEFT_OUT = {"imagecodecs"}
TESTS_NEED = ("pytest", "hypothesis")
PLAN = (
    "import nnunetv2.experiment_planning.plan_and_preprocess_entrypoints as nnunet; nnunet.plan_and_preprocess_entry()"
)


def needed(package: str, there: set[str]) -> Iterator[str]:
    """name==version of all that a package and its tests need, as installed here; `there` is not looked into."""
    seen, waiting = set(there), [*(distribution(package).requires or []), *TESTS_NEED]
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        waiting += distribution(name).requires or []
        yield f"{name}=={distribution(name).version}"


def in_bundles(sizes: Mapping[str, int], most: int = MAX_BYTES) -> list[list[str]]:
    """Files in groups of at most so many bytes, the largest first. Raises SystemExit for a file that is too large."""
    groups: list[list[str]] = []
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        if size > most:
            raise SystemExit(f"{name} has {size / 2**20:.0f} MiB, more than a bundle may: install it there beforehand")
        fitting = (group for group in groups if sum(sizes[other] for other in group) + size <= most)
        group = next(fitting, None)
        if group is None:
            groups.append([name])
        else:
            group.append(name)
    return groups


def fetch(packages: list[str], python: str, folder: Path) -> None:
    """Wheels for the other machine; of what is only to be had as source they are made here, if it is Python alone."""
    pip = [sys.executable, "-m", "pip"]
    for package in packages:
        options = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp", "-q"]
        options += [option for platform in PLATFORMS for option in ("--platform", platform)]
        if subprocess.run([*pip, "download", *options, "-d", folder, package], stderr=subprocess.DEVNULL).returncode:
            before = set(folder.iterdir())
            subprocess.run([*pip, "wheel", "--no-deps", "-q", "-w", folder, package], check=True)
            if not all(wheel.name.endswith("none-any.whl") for wheel in set(folder.iterdir()) - before):
                raise SystemExit(f"there is no wheel of {package} for Python {python}: install it there beforehand")


def preprocess_phantom(folder: Path, width: int) -> None:
    """Dataset100_Phantom, as nnU-Net plans and preprocesses it, below `folder`."""
    from nnunet_topomae.data.phantom import write_phantom_dataset

    with tempfile.TemporaryDirectory() as raw:
        write_phantom_dataset(Path(raw, "Dataset100_Phantom"), num_training=5, num_test=0, seed=0, width=width)
        folders = {"nnUNet_raw": raw, "nnUNet_preprocessed": str(folder), "nnUNet_results": raw}
        command = [sys.executable, "-c", PLAN, "-d", "100", "-c", "3d_fullres", "-np", "2", "-npfp", "2"]
        subprocess.run(command, check=True, env=os.environ | folders, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--there", type=Path, metavar="FILE", help="the other machine's packages; without it no wheels")
    parser.add_argument("--python", default="3.12", help="of the other machine (default: %(default)s)")
    parser.add_argument("--width", type=int, default=128, help="of the volumes in voxels (default: %(default)s)")
    options = parser.parse_args()
    preprocess_phantom(options.folder / "data", options.width)
    if options.there is not None:
        there = {canonicalize_name(line.split("==")[0].strip()) for line in options.there.read_text().splitlines()}
        with tempfile.TemporaryDirectory(dir=options.folder) as fetched:
            fetch(list(needed("nnunet-topomae", there | LEFT_OUT)), options.python, Path(fetched))
            sizes = {file.name: file.stat().st_size for file in Path(fetched).iterdir()}
            for number, names in enumerate(in_bundles(sizes), start=1):
                bundle = options.folder / f"wheels_{number}"
                bundle.mkdir()
                for name in names:
                    Path(fetched, name).rename(bundle / name)
    for part in sorted(options.folder.iterdir()):
        size = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
        print(f"{part}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
