"""Core-seconds that a step of pre-training takes of the host, by its parts, into docs/speed.md.

    python benchmarks/core_seconds.py [--before TREE] [--minutes 10]

Data: volumes of 256³ as nnU-Net stores them, batches of two, eight a step, by the loader of TopoMAEPretrainer with
`augment_on` device and workers; with --before by that of another working tree, too, in turns. Topology: two crops, 64³
as compared, beside low-passed ones where they are hidden; of images with noise, and of smooth ones. CPU time of a
process on one thread, of its own for each figure, so that other programs hardly matter; medians of the rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from machine import REPOSITORY, add_docs, machine, replace_section
from training import plan_phantom

PATCHES = ((128, 128, 128), (64, 128, 128))
SIDE, BATCH, VIT_STEPS = 256, 2, 8
GPU_SECONDS = {"A100": (0.175, 0.090), "H100": (0.115, 0.060)}  # a step by patch: estimates from published speeds
Key = tuple[str, int, str]  # tree, patch, what


def enlarge_cases(folder: Path) -> None:
    """Each preprocessed case of the phantom becomes SIDE voxels wide, with noise on it."""
    import numpy as np
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
    from scipy.ndimage import zoom

    cases, rng = nnUNetDatasetBlosc2(str(folder)), np.random.default_rng(0)
    for case in cases.identifiers:
        image, label, _, properties = cases.load_case(case)
        factors = [1, *(SIDE / side for side in image.shape[1:])]
        large = zoom(image[:], factors, order=1) + rng.normal(0, 0.2, (1, SIDE, SIDE, SIDE))
        labels = zoom(label[:], factors, order=0)
        blocks, chunks = comp_blosc2_params(large.shape, PATCHES[0])
        for file in folder.glob(f"{case}*.b2nd"):
            file.unlink()
        cases.save_case(large.astype(np.float32), labels, properties, str(folder / case), chunks=chunks, blocks=blocks)


def data_seconds(preprocessed: Path, patch: tuple[int, ...], place: str) -> float:
    """Of the batches of a step."""
    import torch

    from nnunet_topomae.training.pretrainer import TopoMAEPretrainer

    torch.set_num_threads(1)
    plans, dataset_json = (
        json.loads((preprocessed / f"{name}.json").read_text()) for name in ("nnUNetPlans", "dataset")
    )
    plans["configurations"]["3d_fullres"] |= {"patch_size": list(patch), "batch_size": BATCH}
    plans["continue_training"] = False
    plans["topomae"] = {"pretrained": "none", "seed": 0, "augment_on": place, "weight_topology": 0}
    trainer = TopoMAEPretrainer(plans, "3d_fullres", 0, dataset_json, torch.device("cpu"))
    trainer.initialize()
    batches = trainer.get_dataloaders()[0]
    batches = getattr(batches, "source", batches)  # without what the device does
    steps = 3
    for _ in range(VIT_STEPS):
        next(batches)
    begin = time.process_time()
    for _ in range(steps * VIT_STEPS):
        next(batches)
    return (time.process_time() - begin) / steps


def topology_seconds(preprocessed: Path, patch: tuple[int, ...], images: str) -> float:
    """Of the target's diagrams, and of diagrams and matchings of both reconstructions."""
    import numpy as np
    import torch
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from scipy.ndimage import gaussian_filter

    from nnunet_topomae.topology import TopologicalLoss

    torch.set_num_threads(1)
    cases, rng = nnUNetDatasetBlosc2(str(preprocessed / "nnUNetPlans_3d_fullres")), np.random.default_rng(0)
    box = (slice(None), *(slice((SIDE - side) // 2, (SIDE + side) // 2) for side in patch))
    image = np.stack([cases.load_case(case)[0][box] for case in cases.identifiers[:BATCH]])
    image = gaussian_filter(image, (0, 0, 1, 1, 1)) if images == "smooth" else image
    hidden = np.kron(rng.random([side // 16 for side in patch]) < 0.75, np.ones((16, 16, 16), bool))
    completed = torch.from_numpy(np.where(hidden, gaussian_filter(image, (0, 0, 3, 3, 3)), image)).float()
    loss = TopologicalLoss(max_side=64, normalisation="voxels")
    loss(completed[..., :8, :8, :8], torch.from_numpy(image[..., :8, :8, :8]))  # compiles
    begin = time.process_time()
    diagrams = loss.diagrams(torch.from_numpy(image))
    for _ in range(2):
        loss(completed, None, diagrams)
    return time.process_time() - begin


def take_turns(options: argparse.Namespace, preprocessed: Path, end: float) -> dict[Key, list[float]]:
    """As many rounds as end in time, one at least."""
    trees = {"now": REPOSITORY} | ({"before": options.before.resolve()} if options.before else {})
    data = [(tree, patch, what) for patch in range(len(PATCHES)) for what in ("device", "workers") for tree in trees]
    topology = [("now", 0, "smooth"), ("now", 0, "noisy")]  # of the other patch 64³ are compared, too
    seconds: dict[Key, list[float]] = defaultdict(list)
    for number in itertools.count(1):
        begin = time.monotonic()
        for key in data + topology:
            tree, patch, what = key
            command = [sys.executable, __file__, "--measure", str(preprocessed), str(patch), what]
            environment = os.environ | {"PYTHONPATH": str(trees[tree]), "nnUNet_n_proc_DA": "0", "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            seconds[key].append(float(done.stdout.splitlines()[-1]))
            print(f"round {number}: {' '.join(map(str, key))} {seconds[key][-1]:.3f} s", flush=True)
        if 2 * time.monotonic() - begin > end:
            return seconds


def report(options: argparse.Namespace, seconds: dict[Key, list[float]]) -> None:
    from nnunet_topomae.visualization.tables import markdown_table

    def median(*key: Any) -> float | None:
        return statistics.median(seconds[key]) if key in seconds else None

    measured, cores = [], []
    least, most = (statistics.median(seconds["now", 0, what]) for what in ("smooth", "noisy"))
    for number, patch in enumerate(PATCHES):
        name = "×".join(map(str, patch))
        for what in ("device", "workers"):
            now, before = median("now", number, what), median("before", number, what)
            row = [name, what, f"{now / VIT_STEPS:.3f}", f"{now:.2f}"]
            measured.append(row + ([f"{before:.2f}", f"{before / now:.1f}"] if before else []))
        for steps, every in itertools.product((VIT_STEPS, 1), ("–", 1, 4)):
            data = median("now", number, "device") / VIT_STEPS * steps
            total = [data] if every == "–" else [data + topology / every for topology in (least, most)]
            row = [name, steps, every, " to ".join(f"{value:.2f}" for value in total)]
            for gpu in GPU_SECONDS.values():
                row.append("–" if steps == 1 else " to ".join(f"{value / gpu[number]:.1f}" for value in total))
            cores.append(row)
    rounds, software = len(next(iter(seconds.values()))), machine(("nnunetv2", "blosc2", "numba", "torch"))
    of_data = ["patch", "`augment_on`", "a batch", f"`vit_steps` {VIT_STEPS}"]
    of_data += ["before", "before / now"] if options.before else []
    of_cores = ["patch", "`vit_steps`", "`topology_every`", "core-seconds", *(f"cores, {gpu}" for gpu in GPU_SECONDS)]
    text = f"""Written by `benchmarks/core_seconds.py` on {software}.
CPU time on one thread, medians of {rounds} rounds. *Measured*: core-seconds of data a step, batches of {BATCH} from
volumes of {SIDE}³ in nnU-Net's blosc2:

{markdown_table(of_data, measured)}

*Measured*: topology of a step, 64³ compared, takes {least:.2f} core-seconds of smooth images, {most:.2f} of noisy ones.
From both, core-seconds a step where the GPU augments, with topology and without (–), and (*estimated*, by the GPUs'
published speeds) how many cores keep a card busy:

{markdown_table(of_cores, cores)}
"""
    replace_section(options.docs / "speed.md", "core-seconds", text)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, metavar="TREE", help="another working tree, to stand beside this one")
    parser.add_argument("--minutes", type=float, default=10, help="no round begins that would end later")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    add_docs(parser)
    options = parser.parse_args()
    if options.measure:
        folder, patch, what = options.measure
        measured = topology_seconds if what in ("smooth", "noisy") else data_seconds
        print(measured(Path(folder), PATCHES[int(patch)], what))
        return
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["nnUNet_results"] = str(folder / "results")
        plan_phantom(48, folder, end)
        preprocessed = folder / "preprocessed" / "Dataset100_Phantom"
        enlarge_cases(preprocessed / "nnUNetPlans_3d_fullres")
        report(options, take_turns(options, preprocessed, end))


if __name__ == "__main__":
    main()
