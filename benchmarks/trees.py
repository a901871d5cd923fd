"""A data set of branching tubes whose topology is known exactly, in nnU-Net's raw format.

    python benchmarks/trees.py $nnUNet_raw/Dataset021_Trees [--cases 40] [--seed 0]

Every volume of 48 to 64 mm (1 mm a voxel) shows one vessel tree: branches taper and fork, bridges between them close
loops, other branches end just before a wall or run beside one. So the Betti numbers of the label are (1, loops, 0),
6- and 26-connected alike: they stand in betti_numbers.json, and a case whose voxels have others is drawn again.
The image does not show them to a threshold: along stretches contrast drops out where the label goes on, as the signal
of slow flow does in time-of-flight angiography; blur fills the gaps between neighbours; a background texture, a bias
field and Rician noise (Gudbjartsson and Patz, Magn. Reson. Med. 34, 1995), as magnitude images have it, come on top.

few_label_splits.json has 2, 4, 8, 20 labelled cases out of the first half, the second half for validation.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from scipy.interpolate import make_interp_spline
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from nnunet_topomae.data.raw_images import write_image
from nnunet_topomae.files import write_json
from nnunet_topomae.topology import betti_numbers

LABELLED = (2, 4, 8, 20)
THINNEST = 1.3  # mm: no tube has a smaller radius, lest sampling tears it
GAP = 1.75  # mm between tubes: as √3, so that not even corners of voxels touch
TRIES = 5000  # to find a place for tubes of a kind; what finds none is left out
STEP = 0.5  # mm between the points of a centreline


class Tube(NamedTuple):
    """A centreline.

    Attributes:
        points: [n, 3] mm.
        radii: [n] mm.
    """

    points: np.ndarray
    radii: np.ndarray


class Case(NamedTuple):
    """A volume.

    Attributes:
        image: [D, H, W] float32.
        label: [D, H, W] uint8, 1 in the vessel.
        betti_numbers: of the label: components, tunnels, cavities.
        contrast: [D, H, W], of the nearest tube; 1 where it is whole.
        tubes: what was drawn.
    """

    image: np.ndarray
    label: np.ndarray
    betti_numbers: tuple[int, int, int]
    contrast: np.ndarray
    tubes: list[Tube]


def draw_case(rng: np.random.Generator) -> Case:
    """A tree of which the voxels have the topology that was put in."""
    while True:
        shape = tuple(int(side) for side in rng.integers(48, 65, 3))
        tubes, loops = draw_tree(rng, shape)
        distance, contrast = _paint(shape, tubes, [_contrast(rng, tube) for tube in tubes])
        label = distance < 0
        if all(betti_numbers(label, connectivity) == (1, loops, 0) for connectivity in (6, 26)):
            image = _image(rng, distance, contrast)
            return Case(image, label.astype(np.uint8), (1, loops, 0), contrast, tubes)


def draw_tree(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[list[Tube], int]:
    """Tubes that are one piece, and the number of loops among them."""
    inwards = np.eye(3)[rng.integers(3)]
    start = np.where(inwards, 0, shape * rng.uniform(0.35, 0.65, 3))
    tubes = [_tube(_walk(rng, start, inwards, 0.85 * inwards @ shape), 3.2, 2.0)]
    wanted, loops = int(rng.integers(2, 6)), 0
    for grow, count in ((_branch, rng.integers(10, 15)), (_bridge, wanted), (_near_miss, 4), (_companion, 2)):
        grown = (grow(rng, tubes) for _ in range(TRIES))
        fitting = (tube for tube in grown if tube and _fits(tube, tubes, shape, both_ends=grow is _bridge))
        for tube in islice(fitting, count):
            tubes.append(tube)
            loops += grow is _bridge
    return tubes, loops


def _branch(rng: np.random.Generator, tubes: list[Tube]) -> Tube:
    """Off a tube at 40 to 75 degrees, narrower than it."""
    point, radius, tangent = _somewhere(rng, tubes)
    angle = rng.uniform(0.7, 1.3)
    direction = np.cos(angle) * tangent + np.sin(angle) * _across(rng, tangent)
    return _tube(_walk(rng, point, direction, rng.uniform(14, 30)), 0.85 * radius, 0.5 * radius)


def _bridge(rng: np.random.Generator, tubes: list[Tube]) -> Tube | None:
    """From one tube to another, or to another part of it, in a bow."""
    (start, radius, _), (end, other, _) = _somewhere(rng, tubes), _somewhere(rng, tubes)
    length = np.linalg.norm(end - start)
    if not 9 < length < 24:
        return None
    bow = (start + end) / 2 + rng.uniform(0.1, 0.35) * length * _across(rng, (end - start) / length)
    return _tube(np.array([start, bow, end]), 0.7 * radius, 0.7 * other)


def _near_miss(rng: np.random.Generator, tubes: list[Tube]) -> Tube | None:
    """A bridge that ends before the wall."""
    bridge = _bridge(rng, tubes)
    if bridge is None:
        return None
    gaps = _gaps(bridge, tubes).min(axis=1)
    first = np.argmax(gaps > GAP)
    touching = np.flatnonzero(gaps[first:] < GAP)
    end = first + touching[0] if len(touching) else 0
    return Tube(bridge.points[:end], bridge.radii[:end]) if end * STEP > 7 else None


def _companion(rng: np.random.Generator, tubes: list[Tube]) -> Tube | None:
    """Beside a tube, off which it comes."""
    parent = tubes[rng.integers(len(tubes))]
    size = int(rng.uniform(14, 22) / STEP)
    if len(parent.points) <= size + 4:
        return None
    begin = rng.integers(2, len(parent.points) - size)
    points, radii = parent.points[begin : begin + size], parent.radii[begin : begin + size]
    away = np.clip(np.arange(size) * STEP / 5, 0, 1) * (radii.max() + THINNEST + GAP + 0.1)
    side = _across(rng, (points[-1] - points[0]) / np.linalg.norm(points[-1] - points[0]))
    return Tube(points + away[:, None] * side, np.linspace(1.2, 1, size) * THINNEST)


def _somewhere(rng: np.random.Generator, tubes: list[Tube]) -> tuple[np.ndarray, float, np.ndarray]:
    """Point, radius and unit tangent, away from the ends."""
    sizes = np.array([len(tube.points) for tube in tubes])
    tube = tubes[rng.choice(len(tubes), p=sizes / sizes.sum())]
    index = rng.integers(len(tube.points) // 6, len(tube.points) - 2)
    tangent = tube.points[index + 1] - tube.points[index - 1]
    return tube.points[index], float(tube.radii[index]), tangent / np.linalg.norm(tangent)


def _across(rng: np.random.Generator, direction: np.ndarray) -> np.ndarray:
    vector = np.cross(direction, rng.normal(size=3))
    return vector / np.linalg.norm(vector)


def _walk(rng: np.random.Generator, start: np.ndarray, direction: np.ndarray, length: float) -> np.ndarray:
    """[5, 3] points, each step turned a little from the one before."""
    points = [start]
    for _ in range(4):
        points.append(points[-1] + length / 4 * direction)
        direction = direction + 0.35 * rng.normal(size=3)
        direction /= np.linalg.norm(direction)
    return np.array(points)


def _tube(controls: np.ndarray, begin: float, end: float) -> Tube:
    """A smooth curve through the points, tapering."""
    count = int(np.linalg.norm(np.diff(controls, axis=0), axis=1).sum() / STEP)
    spline = make_interp_spline(np.linspace(0, 1, len(controls)), controls, k=min(3, len(controls) - 1))
    return Tube(spline(np.linspace(0, 1, count)), np.maximum(np.linspace(begin, end, count), THINNEST))


def _fits(new: Tube, tubes: list[Tube], shape: tuple[int, ...], both_ends: bool) -> bool:
    """Whether it stays inside, and clear of all others where it has left the tube that it comes from, or goes to."""
    margin = new.radii[:, None] + 1.5
    if (new.points < margin).any() or (new.points > np.array(shape) - 1 - margin).any():
        return False
    clear = (_gaps(new, tubes) >= GAP).all(axis=1)
    first = np.argmax(clear)
    last = len(clear) - np.argmax(clear[::-1]) if both_ends else len(clear)
    reach = 8 / STEP  # a junction is no longer than that
    is_free = clear[first:last].all() and (last - first) * STEP > 5
    return bool(is_free and first < reach and len(clear) - last < reach)


def _gaps(new: Tube, tubes: list[Tube]) -> np.ndarray:
    """[points of the new one, tubes] mm from surface to surface."""
    distances = [cdist(new.points, tube.points) - tube.radii for tube in tubes]
    return np.stack([distance.min(axis=1) for distance in distances], axis=1) - new.radii[:, None]


def _contrast(rng: np.random.Generator, tube: Tube) -> np.ndarray:
    """[n], 1 but for one drop-out in every 24 mm or so, 4 to 8 mm long, not at an end."""
    contrast = np.ones(len(tube.points))
    along = STEP * np.arange(len(contrast))
    for _ in range(round(along[-1] / 24)):
        half = rng.uniform(2, 4)
        centre = rng.uniform(half + 3, max(along[-1] - half - 2, half + 3.1))
        window = np.clip(1.5 * np.cos(np.pi / 2 * np.clip((along - centre) / (half + 1), -1, 1)), 0, 1)
        contrast = np.minimum(contrast, 1 - rng.uniform(0.65, 0.85) * window)
    return contrast


def _paint(shape: tuple[int, ...], tubes: list[Tube], contrasts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Signed distance (mm, at most 3) to the nearest wall, negative inside, and the contrast of the tube there."""
    distance, contrast = np.full(shape, 3.0), np.ones(shape)
    for tube, along in zip(tubes, contrasts, strict=True):
        for point, radius, value in zip(*tube, along, strict=True):
            low = np.maximum(np.ceil(point - radius - 3), 0).astype(int)
            box = tuple(slice(a, b) for a, b in zip(low, (point + radius + 4).astype(int), strict=True))
            axes = [np.arange(*axis.indices(side)) - c for axis, side, c in zip(box, shape, point, strict=True)]
            here = np.sqrt(sum(axis**2 for axis in np.ix_(*axes))) - radius
            nearer = here < distance[box]
            distance[box][nearer], contrast[box][nearer] = here[nearer], value
    return distance, contrast


def _image(rng: np.random.Generator, distance: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    vessels = gaussian_filter(np.clip(0.5 - distance, 0, 1) * contrast, 0.7)
    texture = sum(0.06 * _smooth_noise(rng, distance.shape, sigma) for sigma in (1.0, 4.0))
    signal = (0.4 + texture + 0.8 * vessels) * np.exp(0.15 * _smooth_noise(rng, distance.shape, 16.0))
    real, imaginary = rng.normal(0, 0.07, (2, *distance.shape))
    return (1000 * np.hypot(signal + real, imaginary)).astype(np.float32)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    noise = gaussian_filter(rng.normal(size=shape), sigma)
    return noise / noise.std()


def write_dataset(folder: Path, count: int, seed: int) -> None:
    """dataset.json, imagesTr, labelsTr, betti_numbers.json, few_label_splits.json. The same seed, the same voxels."""
    truth = {}
    for number in range(count):
        name, case = f"tree_{number:03d}", draw_case(np.random.default_rng((seed, number)))
        for file, array in ((f"imagesTr/{name}_0000", case.image), (f"labelsTr/{name}", case.label)):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            write_image(folder / f"{file}.nii.gz", sitk.GetImageFromArray(array))
        truth[name] = case.betti_numbers
    half = count // 2
    train, val = list(truth)[:half], list(truth)[half:]
    splits = {str(k): {"labelled": train[:k], "unlabelled": train[k:], "val": val} for k in LABELLED if k <= half}
    write_json(folder / "betti_numbers.json", truth)
    write_json(folder / "few_label_splits.json", splits)
    description = {
        "name": folder.name,
        "description": "Synthetic angiography: vessel trees of known Betti numbers",
        "channel_names": {"0": "MRA"},
        "labels": {"background": 0, "vessel": 1},
        "numTraining": count,
        "file_ending": ".nii.gz",
    }
    write_json(folder / "dataset.json", description)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="RAW_FOLDER", help="to make, as in $nnUNet_raw/Dataset021_Trees")
    parser.add_argument("--cases", type=int, default=40, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args()
    if options.cases < 2 * min(LABELLED):
        parser.error(f"--cases: there must be at least {2 * min(LABELLED)}")
    if options.folder.exists():
        parser.error(f"{options.folder} exists: name another folder, or remove it")
    write_dataset(options.folder, options.cases, options.seed)


if __name__ == "__main__":
    main()
