"""A phantom data set whose classes differ in topology, in nnU-Net's raw format.

Every volume shows a soft body in air and, inside it, five objects at random places, scales and orientations.
Betti numbers (components, tunnels, cavities) of a class's voxels:

    1 ball      (1, 0, 0)    a dark cyst
    2 torus     (1, 1, 0)    a ring
    3 shell     (1, 0, 1)    a wall around a lumen
    4 vessels   (2, 0, 0)    two branching trees, an artery and a vein

The classes' mean intensities vary by case and overlap; a bias field, partial volume and noise come on top, so that no
threshold tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from nnunet_topomae.data.raw_images import write_image
from nnunet_topomae.files import write_json

LABELS = {"background": 0, "ball": 1, "torus": 2, "shell": 3, "vessels": 4}

_OBJECTS = ("ball", "torus", "shell", "vessels", "vessels")
# Radius in mm of an object's bounding sphere in a volume 48 mm wide; mean intensity, drawn for each object.
_RADIUS = {"ball": 7.2, "torus": 9.5, "shell": 8.8, "vessels": 10.0}
_INTENSITY = {"ball": (0.22, 0.30), "torus": (0.85, 1.00), "shell": (0.65, 0.80), "vessels": (1.00, 1.25)}
_THINNEST = 1.3  # mm: no tube or wall has a smaller half-width, lest sampling tears it


def write_phantom_dataset(
    folder: str | Path, num_training: int, num_test: int, seed: int, width: float = 48.0
) -> dict[str, object]:
    """Write labelled training and test cases; return the content of dataset.json.

    `folder` gets dataset.json, imagesTr, labelsTr and, if `num_test` > 0, imagesTs, labelsTs. `width` is the mean side
    length of a volume in mm, at least 32; the spacing is 1 mm in the plane and 1 or 1.2 mm across. The same seed writes
    the same voxels.
    """
    if width < 32:
        raise ValueError(f"width={width}: the objects do not fit into less than 32 mm")
    folder = Path(folder)
    for split, count in (("Tr", num_training), ("Ts", num_test)):
        for number in range(count):
            rng = np.random.default_rng((seed, split == "Ts", number))
            image, label, spacing = phantom_case(rng, width)
            case = f"phantom_{split.lower()}_{number:03d}"
            for file, array in ((f"images{split}/{case}_0000", image), (f"labels{split}/{case}", label)):
                volume = sitk.GetImageFromArray(array)
                volume.SetSpacing(spacing[::-1])
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                write_image(folder / f"{file}.nii.gz", volume)
    description: dict[str, object] = {
        "name": folder.name,
        "description": "Synthetic volumes: ball, torus, shell, vessel trees",
        "channel_names": {"0": "MRI"},
        "labels": LABELS,
        "numTraining": num_training,
        "file_ending": ".nii.gz",
    }
    write_json(folder / "dataset.json", description)
    return description


def phantom_case(rng: np.random.Generator, width: float) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """One case: image [D, H, W] float32, label [D, H, W] uint8, spacing of the axes D, H, W in mm."""
    spacing = (float(rng.choice([1.0, 1.0, 1.2])), 1.0, 1.0)
    extent = width * rng.uniform(0.94, 1.06, 3)
    shape = tuple(int(length / step) for length, step in zip(extent, spacing, strict=True))
    points = np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij"))
    points += _smooth_noise(rng, (3, *shape), sigma=8.0) * width / 60  # bends the shapes a little
    scale = width / 48 * rng.uniform(0.9, 1.05)

    centre = np.array(shape) * spacing / 2
    body = np.linalg.norm((points - centre[:, None, None, None]) / (0.56 * extent)[:, None, None, None], axis=0) < 1
    image = np.where(body, rng.uniform(0.42, 0.52), 0.08)
    label = np.zeros(shape, np.uint8)
    for name, origin in _place(rng, extent, scale):
        local = np.tensordot(_rotation(rng), points - origin[:, None, None, None], axes=1)
        inside = _SHAPES[name](rng, local, scale) < 0
        label[inside] = LABELS[name]
        image[inside] = rng.uniform(*_INTENSITY[name])
    image = gaussian_filter(image, 0.6) * np.exp(0.15 * _smooth_noise(rng, shape, sigma=12.0))
    image += rng.normal(0, 0.06, shape)
    return (1000 * image).astype(np.float32), label, spacing


def _place(rng: np.random.Generator, extent: np.ndarray, scale: float) -> list[tuple[str, np.ndarray]]:
    """Centres (mm) such that the objects' bounding spheres keep 1 mm apart from each other and from the border."""
    for _ in range(1000):
        placed: list[tuple[str, np.ndarray]] = []
        for name in sorted(_OBJECTS, key=_RADIUS.__getitem__, reverse=True):
            margin = _RADIUS[name] * scale + 1
            for _ in range(50):
                origin = rng.uniform(margin, extent - margin)
                gaps = (np.linalg.norm(origin - other) - (_RADIUS[name] + _RADIUS[o]) * scale for o, other in placed)
                if all(gap > 1 for gap in gaps):
                    placed.append((name, origin))
                    break
        if len(placed) == len(_OBJECTS):
            return placed
    raise RuntimeError(f"no place for {len(_OBJECTS)} objects in a volume of {extent.round(1)} mm")


def _ball(rng: np.random.Generator, points: np.ndarray, scale: float) -> np.ndarray:
    radii = _RADIUS["ball"] * scale * rng.uniform(0.75, 1.0, (3, 1, 1, 1))
    return np.linalg.norm(points / radii, axis=0) - 1


def _torus(rng: np.random.Generator, points: np.ndarray, scale: float) -> np.ndarray:
    tube = max(rng.uniform(2.2, 3.0) * scale, _THINNEST)
    ring = _RADIUS["torus"] * scale - tube
    return np.hypot(np.hypot(points[0], points[1]) - ring, points[2]) - tube


def _shell(rng: np.random.Generator, points: np.ndarray, scale: float) -> np.ndarray:
    half_wall = max(rng.uniform(1.3, 1.7) * scale, _THINNEST)
    return np.abs(np.linalg.norm(points, axis=0) - (_RADIUS["shell"] * scale - half_wall)) - half_wall


def _vessels(rng: np.random.Generator, points: np.ndarray, scale: float) -> np.ndarray:
    """A trunk that forks twice; distance to the nearest branch's axis, less its radius."""
    length = _RADIUS["vessels"] * scale
    distance = np.full(points.shape[1:], np.inf)
    for start, end, radius in _branches(rng, np.array([-0.85, 0, 0]), 0.0, 0.0, generation=0):
        axis = length * (end - start)
        offset = points - length * start[:, None, None, None]
        along = np.clip(np.tensordot(axis, offset, axes=1) / (axis @ axis), 0, 1)
        tube = np.linalg.norm(offset - along * axis[:, None, None, None], axis=0)
        distance = np.minimum(distance, tube - max(radius * scale, _THINNEST))
    return distance


def _branches(
    rng: np.random.Generator, start: np.ndarray, polar: float, azimuth: float, generation: int
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """(start, end, radius in mm) of a branch and its children, lengths in units of the bounding sphere's radius."""
    direction = np.array([np.cos(polar), np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth)])
    end = start + (0.65, 0.6, 0.45)[generation] * direction
    yield start, end, (2.2, 1.8, 1.5)[generation]
    if generation == 0:
        roll = rng.uniform(0, np.pi)
        for side in (0, np.pi):
            yield from _branches(rng, end, rng.uniform(0.7, 0.9), roll + side, 1)
    elif generation == 1:
        for side in (-1.1, 1.1):
            yield from _branches(rng, end, rng.uniform(0.8, 1.0), azimuth + side, 2)


_SHAPES = {"ball": _ball, "torus": _torus, "shell": _shell, "vessels": _vessels}


def _rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.diag(r))


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Gaussian noise low-passed along the last three axes, scaled to unit variance."""
    noise = gaussian_filter(rng.normal(size=shape), [0] * (len(shape) - 3) + [sigma] * 3)
    return noise / noise.std()
