"""Our topology engine beside its peers: time and peak memory on crops of real images, into docs/benchmarks.md.

    python benchmarks/topology.py [--data ../shared/data] [--sizes 32 64 128] [--limit 60]

Three stages: diagrams of a volume, W2² between two diagrams (dimension 0), and the whole loss, forward and backward.
Each peer runs in a process of its own, which is warmed up on a small volume and pinned to one core. Peers take turns,
so that a drift of the machine hits all alike. A time is the median over rounds of CPU time, so that other work on the
machine does not count. A peer is left out from the size on at which it should run longer than the limit, or did.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import SimpleITK
from machine import REPOSITORY, add_docs, installed, machine, memory_kilobytes, replace_section
from scipy.ndimage import gaussian_filter

TOLERANCE = 0.01
PACKAGES = ("numba", "numpy", "torch", "gudhi", "POT", "cripser", "torch-topological")
ONE_ROUND_SECONDS = 10  # a run longer than this is not repeated


# --- What is timed. A peer is a function that imports what it needs and returns the call to be timed. -----------------


def diagrams_ours() -> Callable:
    from nnunet_topomae.topology import persistence_diagrams

    return lambda volume: persistence_diagrams(volume, "numba")


def diagrams_gudhi() -> Callable:
    import gudhi

    def run(volume: np.ndarray) -> None:
        complex_ = gudhi.CubicalComplex(vertices=volume.astype(np.float64))
        complex_.compute_persistence(homology_coeff_field=2)
        complex_.vertices_of_persistence_pairs()

    return run


def diagrams_cripser() -> Callable:
    import cripser

    return lambda volume: cripser.computePH(volume.astype(np.float64), maxdim=2)


def distance_ours() -> Callable:
    from nnunet_topomae.topology import squared_wasserstein

    return lambda a, b: squared_wasserstein(a, b, TOLERANCE)


def distance_hera() -> Callable:
    import gudhi.hera

    # Hera's delta is the relative error of W2; ours is that of W2², so that half of ours would be the same demand.
    return lambda a, b: gudhi.hera.wasserstein_distance(a, b, order=2, internal_p=2, delta=TOLERANCE)


def distance_pot() -> Callable:
    import gudhi.wasserstein

    return lambda a, b: gudhi.wasserstein.wasserstein_distance(a, b, order=2, internal_p=2)


def loss_ours() -> Callable:
    import torch

    from nnunet_topomae.topology import TopologicalLoss

    torch.set_num_threads(1)
    return _forward_backward(TopologicalLoss(rel_tol=TOLERANCE, backend="numba"))


def loss_torch_topological() -> Callable:
    import gudhi
    import torch
    from torch_topological.nn import CubicalComplex, WassersteinDistance, cubical_complex

    class Gudhi:  # torch-topological hands tensors to GUDHI, which GUDHI 3.13 refuses: hand it what it takes
        @staticmethod
        def CubicalComplex(  # noqa: N802
            dimensions: Sequence[int], top_dimensional_cells: torch.Tensor
        ) -> gudhi.CubicalComplex:
            return gudhi.CubicalComplex(
                dimensions=list(dimensions), top_dimensional_cells=top_dimensional_cells.detach().numpy()
            )

    torch.set_num_threads(1)
    cubical_complex.gudhi = Gudhi
    diagrams, distance = CubicalComplex(dim=3), WassersteinDistance(q=2)
    return _forward_backward(lambda x, y: distance(diagrams(x[0, 0]), diagrams(y[0, 0])))


def _forward_backward(loss: Callable) -> Callable:
    import torch

    def run(reconstruction: np.ndarray, target: np.ndarray) -> float:
        """The share of the backward pass."""
        x = torch.from_numpy(reconstruction)[None, None].requires_grad_()
        start = time.process_time()
        value = loss(x, torch.from_numpy(target)[None, None])
        middle = time.process_time()
        value.backward()
        assert x.grad.isfinite().all()
        return 1 - (middle - start) / (time.process_time() - start)

    return run


# --- Processes that are timed -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """A competitor of one stage.

    Attributes:
        growth: its time grows like (size of the input) to this power, for the forecast.
        needs: a package that has to be installed.
    """

    name: str
    prepare: Callable[[], Callable]
    growth: float
    needs: str | None = None


@dataclass
class Measurement:
    seconds: list[float] = field(default_factory=list)
    result: float | None = None
    megabytes: float = 0.0
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else float("nan")


class Runner:
    """A process that runs one peer on whatever inputs it is sent."""

    def __init__(self, peer: Peer, warm_up: tuple) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, peer), daemon=True)
        self.process.start()
        theirs.close()
        self.run(warm_up, limit=300)

    def run(self, inputs: tuple, limit: int) -> dict | None:
        """What `_measure` returned, or None where that took more than `limit` seconds of CPU time."""
        self.connection.send((inputs, limit))
        try:
            answer = self.connection.recv()
        except EOFError:
            self.process.join()
            if self.process.exitcode == -signal.SIGXCPU:
                return None
            raise RuntimeError(f"a measuring process ended with exit code {self.process.exitcode}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.join()


def _serve(connection: Connection, peer: Peer) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    call = peer.prepare()
    while True:
        inputs, limit = connection.recv()
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + limit, hard))
        try:
            connection.send(_measure(call, inputs))
        except Exception as error:
            connection.send(error)


def _measure(call: Callable, inputs: tuple) -> dict:
    """Seconds, what the call returned if that is a number, and by how much memory grew at most (Linux only)."""
    before = memory_kilobytes("VmRSS")
    if before:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    start = _settled_time()
    result = call(*inputs)
    seconds = _settled_time() - start
    return {
        "seconds": seconds,
        "result": result if isinstance(result, float) else None,
        "megabytes": (memory_kilobytes("VmHWM") - before) / 1024,
    }


def _settled_time() -> float:
    """CPU time after a pause: of a process with a CPU limit, Linux counts it at pauses and ticks (1 to 10 ms)."""
    time.sleep(1e-4)
    return time.process_time()


# --- Stages -----------------------------------------------------------------------------------------------------------

OURS = "ours, 1 thread"
DIAGRAMS = [
    Peer(OURS, diagrams_ours, 1.1),
    Peer("cripser", diagrams_cripser, 1.1, needs="cripser"),
    Peer("GUDHI", diagrams_gudhi, 1.1, needs="gudhi"),
]
DISTANCES = [
    Peer(OURS, distance_ours, 1.3),
    Peer("gudhi.hera", distance_hera, 1.5, needs="gudhi"),
    Peer("GUDHI + POT", distance_pot, 2.0, needs="POT"),
]
LOSSES = [
    Peer(OURS, loss_ours, 1.3),
    Peer("torch-topological", loss_torch_topological, 2.0, needs="torch-topological"),
]


@dataclass(frozen=True)
class Case:
    name: str
    target: np.ndarray
    reconstruction: np.ndarray


Table = dict[str, dict[str, Measurement]]  # by case and peer


def run_stage(
    peers: list[Peer], cases: dict[str, tuple], small: tuple, rounds: int, limit: int, size: Callable
) -> Table:
    """Measure every peer on the inputs of every case, in order of size."""
    runners = {peer.name: Runner(peer, small) for peer in peers}
    table: Table = {case: {peer.name: Measurement() for peer in peers} for case in cases}
    last: dict[str, tuple[float, float]] = {}
    for case, inputs in sorted(cases.items(), key=lambda item: size(item[1])):
        row = table[case]
        for peer in peers:
            last_size, last_seconds = last.get(peer.name, (size(inputs), 0.0))
            if peer.name not in runners or last_seconds * (size(inputs) / last_size) ** peer.growth > limit:
                row[peer.name].note = "–"
        for _ in range(rounds):
            for peer in peers:
                measured = row[peer.name]
                if measured.note or (measured.seconds and measured.seconds[-1] > ONE_ROUND_SECONDS):
                    continue
                answer = runners[peer.name].run(inputs, limit)
                if answer is None:
                    measured.note = f"> {limit} s"
                    del runners[peer.name]
                    continue
                measured.seconds.append(answer["seconds"])
                measured.result = answer["result"]
                measured.megabytes = max(measured.megabytes, answer["megabytes"])
                last[peer.name] = (size(inputs), measured.median)
        print(f"  {case}: " + ", ".join(f"{name} {cell(row[name])}" for name in row), flush=True)
    for runner in runners.values():
        runner.close()
    return table


def load_cases(data: Path, sizes: list[int]) -> list[Case]:
    """Cubes from the centre of the CT and a whole Hippocampus image, each with a blurred, noisy copy."""
    ct = np.clip(_read(data / "ct" / "example_ct.nii.gz"), -991, 362)
    mri = _read(data / "Dataset004_Hippocampus" / "imagesTr" / "hippocampus_001_0000.nii.gz")
    volumes = {f"CT {n}³": centre_cube((ct - 50) / 141, n) for n in sizes}
    volumes["Hippocampus " + "×".join(map(str, mri.shape))] = (mri - mri.mean()) / mri.std()
    rng = np.random.default_rng(0)
    copies = {name: gaussian_filter(v, 1) + rng.normal(scale=0.1, size=v.shape) for name, v in volumes.items()}
    return [Case(name, v.astype(np.float32), copies[name].astype(np.float32)) for name, v in volumes.items()]


def centre_cube(volume: np.ndarray, side: int) -> np.ndarray:
    """A cube of this side, with the edges repeated where the volume is smaller."""
    short = [max(0, side - s) for s in volume.shape]
    volume = np.pad(volume, [(s // 2, s - s // 2) for s in short], mode="edge")
    return volume[tuple(slice((s - side) // 2, (s - side) // 2 + side) for s in volume.shape)]


def _read(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).astype(np.float64)


# --- Report -----------------------------------------------------------------------------------------------------------


def cell(measurement: Measurement) -> str:
    if not measurement.seconds:
        return measurement.note
    megabytes = "< 1" if measurement.megabytes < 1 else f"{measurement.megabytes:.0f}"
    return f"{measurement.median:.2g} s, {megabytes} MB"


def ratio(measurement: Measurement, ours: Measurement) -> str:
    if not measurement.seconds:
        return "–"
    times = measurement.median / ours.median
    return f"{times:.0f}×" if times >= 10 else f"{times:.1f}×" if times >= 2 else f"{times:.2f}×"


def markdown_table(table: Table, first: str, extra: dict[str, str] | None = None) -> str:
    """Time and memory of each peer, and how many times the median of ours the others' is."""
    peers = list(next(iter(table.values())))
    others = [p for p in peers if not p.startswith("ours")]
    lines = [
        f"| {first} | " + " | ".join(peers) + " | " + " | ".join(f"{p} / ours" for p in others) + " |",
        "|---" * (1 + len(peers) + len(others)) + "|",
    ]
    for case, row in table.items():
        ratios = [ratio(row[p], row[OURS]) for p in others]
        name = f"{case} ({extra[case]})" if extra else case
        lines.append(f"| {name} | " + " | ".join([*(cell(row[p]) for p in peers), *ratios]) + " |")
    return "\n".join(lines)


def plot(stages: list[tuple[str, str, Table, dict[str, float]]], path: Path) -> None:
    figure, axes = plt.subplots(1, len(stages), figsize=(4.2 * len(stages), 3.8), layout="constrained")
    for axis, (title, label, table, sizes) in zip(axes, stages, strict=True):
        for peer in next(iter(table.values())):
            measured = sorted((sizes[case], row[peer].median) for case, row in table.items() if row[peer].seconds)
            axis.loglog(*zip(*measured, strict=True), "o-", markersize=4, label=peer)
        axis.set(title=title, xlabel=label, ylabel="seconds")
        axis.grid(alpha=0.3, which="both", linewidth=0.5)
        axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--data", type=Path, default=REPOSITORY.parent / "shared" / "data", help="has ct and Dataset004_*")
    option("--sizes", type=int, nargs="+", default=[32, 64, 128], help="sides of the cubes from the CT")
    option("--rounds", type=int, default=3, help="runs of each peer, of which the median counts")
    option("--limit", type=int, default=60, help="CPU seconds after which a run is given up")
    add_docs(parser)
    args = parser.parse_args()

    from nnunet_topomae.topology import persistence_diagrams, squared_wasserstein

    start = time.perf_counter()
    cases = load_cases(args.data, args.sizes)
    missing = [p.needs for p in DIAGRAMS + DISTANCES + LOSSES if p.needs and not installed(p.needs)]
    stages = [[p for p in peers if p.needs not in missing] for peers in (DIAGRAMS, DISTANCES, LOSSES)]
    small = tuple(np.random.default_rng(i).normal(size=(6, 6, 6)).astype(np.float32) for i in range(2))

    def points(volume: np.ndarray) -> np.ndarray:
        return persistence_diagrams(volume)[0].finite().points

    def run(peers: list[Peer], inputs: dict[str, tuple], warm_up: tuple, size: Callable) -> Table:
        return run_stage(peers, inputs, warm_up, args.rounds, args.limit, size)

    print("diagrams", flush=True)
    diagrams = run(stages[0], {c.name: (c.target,) for c in cases}, small[:1], lambda i: i[0].size)
    print("distances", flush=True)
    pairs = {c.name: (points(c.reconstruction), points(c.target)) for c in cases}
    distances = run(stages[1], pairs, tuple(map(points, small)), lambda i: len(i[0]) + len(i[1]))
    print("losses", flush=True)
    losses = run(stages[2], {c.name: (c.reconstruction, c.target) for c in cases}, small, lambda i: i[0].size)

    voxels = {c.name: c.target.size for c in cases}
    counts = {name: len(a) + len(b) for name, (a, b) in pairs.items()}
    results = {name: squared_wasserstein(*pair, TOLERANCE) for name, pair in pairs.items()}
    extra = {
        name: f"{len(a):,} and {len(b):,} points, gap {1 - results[name].lower_bound / results[name].cost:.1%}"
        for name, (a, b) in pairs.items()
    }
    backward = max(row[OURS].result for row in losses.values())
    plot(
        [
            ("Diagrams of a volume", "voxels", diagrams, voxels),
            ("W2² between diagrams, dimension 0", "points", distances, counts),
            ("Loss, forward and backward", "voxels", losses, voxels),
        ],
        args.docs / "images" / "topology_benchmark.png",
    )
    text = f"""
## Topology

Written by `benchmarks/topology.py` on {machine(PACKAGES)}. Median of up to {args.rounds} rounds in which the peers took
turns, each in a process of its own, warmed up: CPU time on one core. After the comma: the peak
of the memory that the call took. "–": not run, as it was expected to pass the limit of {args.limit} s. CT: centre cubes
of a body CT, clipped and z-scored; Hippocampus: a whole MRI. The place of the reconstruction is taken by a copy blurred
with σ = 1 and with noise of 0.1.

**Diagrams of a volume**, dimensions 0, 1, 2, with critical voxels (cripser: with coordinates).

{markdown_table(diagrams, "volume")}

**W2² between two diagrams**, dimension 0. Ours with tolerance {TOLERANCE} on W2² and a certificate, whose gap is given;
gudhi.hera with δ = {TOLERANCE} on W2; POT exact.

{markdown_table(distances, "volume", extra)}

**Loss**, a batch of one volume, all three dimensions, forward and backward. Of our time the backward pass takes at most
{backward:.1%}: the gradient is known once the matching is. torch-topological computes another distance (L∞,
T-construction); its one call of GUDHI was mended, as it does not run with this version, and for large diagrams it lets
POT stop at the 100,000th iteration, before the optimum.

{markdown_table(losses, "volume")}

![Time against size, log-log](images/topology_benchmark.png)
"""
    replace_section(args.docs / "benchmarks.md", "topology", text)
    for package in missing:
        print(f"not installed, left out: {package}")
    print(f"done in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
