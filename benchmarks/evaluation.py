"""What measuring one abdominal CT takes, beside nnU-Net's Dice alone and surface-distance's surface measures.

    python benchmarks/evaluation.py

The case is made up: 512×512×150 voxels of 0.8×0.8×2.5 mm, 13 ellipsoids with the volumes of abdominal organs (mL), the
prediction with shifted organs and stray islands. CPU time of one process on one core, reading included.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk
import surface_distance
from machine import machine
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_topomae.data.raw_images import require_whole
from nnunet_topomae.evaluation.classes import Classes
from nnunet_topomae.evaluation.folder import evaluate_folder
from nnunet_topomae.evaluation.pairs import pair_files
from nnunet_topomae.evaluation.segmentation import segmentation_metrics
from nnunet_topomae.visualization.tables import markdown_table

SHAPE, SPACING = (150, 512, 512), (2.5, 0.8, 0.8)
VOLUMES_ML = (220, 160, 160, 30, 15, 1500, 350, 120, 90, 40, 80, 5, 5)
NUM_CASES = 40


def organs(rng: np.random.Generator, centres: np.ndarray, shift_mm: float) -> np.ndarray:
    """[D, H, W], ellipsoids around `centres` (mm), moved by about `shift_mm`."""
    labels = np.zeros(SHAPE, np.uint8)
    for label, (centre, volume) in enumerate(zip(centres, VOLUMES_ML, strict=True), start=1):
        radii = (volume * 1000 * 3 / 4 / np.pi) ** (1 / 3) * np.array([0.8, 1.0, 1.25])
        where = centre + rng.normal(0, shift_mm, 3)
        box = tuple(
            slice(max(int((c - r) / s), 0), min(int((c + r) / s) + 2, side))
            for c, r, s, side in zip(where, radii, SPACING, SHAPE, strict=True)
        )
        axes = zip(np.ogrid[box], SPACING, where, radii, strict=True)
        labels[box][sum(((axis * s - c) / r) ** 2 for axis, s, c, r in axes) < 1] = label
    return labels


def cpu_seconds(function) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    rng = np.random.default_rng(0)
    extent = np.multiply(SHAPE, SPACING)
    centres = rng.uniform(0.3, 0.7, (len(VOLUMES_ML), 3)) * extent
    reference, prediction = organs(rng, centres, 0.0), organs(rng, centres, 1.5)
    for label in range(1, len(VOLUMES_ML) + 1):  # islands, as untrained corners of a network make them
        corner = [int(rng.integers(0, side - 4)) for side in SHAPE]
        prediction[tuple(slice(c, c + 4) for c in corner)] = label
    labels = range(1, len(VOLUMES_ML) + 1)
    with TemporaryDirectory() as folder:
        files = []
        for name, label_map in (("gt", reference), ("predicted", prediction)):
            Path(folder, name).mkdir()
            image = sitk.GetImageFromArray(label_map)
            image.SetSpacing(SPACING[::-1])
            files.append(str(Path(folder, name, "case.nii.gz")))
            sitk.WriteImage(image, files[-1], True)
        pairs = pair_files(Path(folder, "gt"), Path(folder, "predicted"), {"file_ending": ".nii.gz"})
        segmentation_metrics(prediction[::8, ::8, ::8], reference[::8, ::8, ::8], labels, SPACING)  # compiles
        measure = partial(segmentation_metrics, prediction, reference, labels, SPACING)
        rows = {
            "ours, all measures": lambda: evaluate_folder(pairs, Classes({label: str(label) for label in labels})),
            "of it, proving both files whole": lambda: require_whole(files),
            "ours, without reading": measure,
            "the same with clDice": lambda: measure(on_demand=["clDice"]),
            "the same with betti_matching_error": lambda: measure(on_demand=["betti_matching_error"]),
            "nnU-Net, counts and Dice": lambda: compute_metrics(*files, SimpleITKIO(), list(labels)),
            "surface-distance, HD95 and NSD, without reading": lambda: surfaces_of_deepmind(
                reference, prediction, labels
            ),
        }
        seconds = {name: cpu_seconds(function) for name, function in rows.items()}
    print(machine(["numpy", "scipy", "nnunetv2", "surface-distance"]))
    ours = seconds["ours, all measures"]
    print(
        markdown_table(["", "CPU time", "/ ours"], [[n, f"{s:.1f} s", f"{s / ours:.2f}×"] for n, s in seconds.items()])
    )
    print(f"a CT of as many voxels: {whole_ct():.2f} times ITK's reading of it to prove it whole")
    print(f"{NUM_CASES} such cases: {NUM_CASES * ours / 60:.1f} min of one core")


def whole_ct() -> float:
    """CPU time that proving a CT of noise whole takes, beside reading it."""
    with TemporaryDirectory() as folder:
        file = str(Path(folder, "ct.nii.gz"))
        voxels = np.random.default_rng(0).normal(0, 30, SHAPE).astype(np.int16)
        sitk.WriteImage(sitk.GetImageFromArray(voxels), file, True)
        return cpu_seconds(lambda: require_whole([file])) / cpu_seconds(lambda: sitk.ReadImage(file))


def surfaces_of_deepmind(reference: np.ndarray, prediction: np.ndarray, labels: range) -> None:
    for label in labels:
        distances = surface_distance.compute_surface_distances(reference == label, prediction == label, SPACING)
        surface_distance.compute_robust_hausdorff(distances, 95)
        for tolerance in (1, 2):
            surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)


if __name__ == "__main__":
    main()
