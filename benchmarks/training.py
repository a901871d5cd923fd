"""Where the time of a training step goes, by trainer and by who augments, into docs/benchmarks.md.

    python benchmarks/training.py DATASET CONFIGURATION FOLD [-p PLANS] [--device cuda|cpu] [--minutes 10]
    python benchmarks/training.py --phantom 160 [--patch 64 64 64] [...]   # a synthetic data set of that width

TopoMAEPretrainer, TopoMAEFinetuner (its network from random weights) and nnUNetTrainer, each with data workers and with
the device, take turns, each turn in a process of its own; what fails, or is out of time, is named below the table.
Parts are exclusive of each other; in a first pass nothing but the whole is timed. On a GPU elapsed time, waiting for
the device before and after each part of the second pass; on a CPU the CPU time of one thread, with crops drawn in the
same process (nnUNet_n_proc_DA=0), so that other programs do not matter; topology's threads are counted apart. With
--threads 2 or more elapsed time there too, on a machine at rest. Nothing is written to nnUNet_results.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import product
from multiprocessing.connection import Connection
from operator import itemgetter
from pathlib import Path
from typing import Any

from gpu_bundle import PLAN
from machine import add_docs, machine, memory_kilobytes, replace_section

from nnunet_topomae.visualization.tables import markdown_table

PACKAGES = ("torch", "nnunetv2", "batchgeneratorsv2", "numba")
TRAINERS = ("TopoMAEPretrainer", "TopoMAEFinetuner", "nnUNetTrainer")
PLACES = ("workers", "device")
PARTS = (
    "data",
    "augmentation",
    "forward, ViT",
    "forward, others",
    "losses",
    "waiting for topology",
    "backward",
    "optimiser",
    "rest",
)
ENGINE = ("homology", "matching")  # in threads of their own
Key = tuple[str, str]  # trainer and place


class Stopwatch:
    """Seconds by part. A part within another is not counted for the other."""

    def __init__(self, clock: Callable[[], float], synchronise: Callable[[], None]) -> None:
        self.clock, self.synchronise = clock, synchronise
        self.seconds: dict[str, float] = defaultdict(float)
        self._within: list[float] = []  # seconds of inner parts, by depth

    def time(self, part: str, function: Callable, *args: Any, **kwargs: Any) -> Any:
        self.synchronise()
        begin = self.clock()
        self._within.append(0.0)
        try:
            return function(*args, **kwargs)
        finally:
            self.synchronise()
            elapsed = self.clock() - begin
            self.seconds[part] += elapsed - self._within.pop()
            if self._within:
                self._within[-1] += elapsed

    def watch(self, owner: Any, name: str, part: str) -> None:
        """From now on the calls of an attribute count for a part."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:  # a partial would be no method of a class
            return self.time(part, function, *args, **kwargs)

        setattr(owner, name, timed)


def watch_engine(seconds: dict[str, float]) -> None:
    """CPU time of topology's threads."""
    from nnunet_topomae.topology import loss

    def timed(part: str, function: Callable, *args: Any, **kwargs: Any) -> Any:
        begin = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[part] += time.thread_time() - begin

    loss.persistence_diagrams = functools.partial(timed, "homology", loss.persistence_diagrams)
    loss.squared_wasserstein = functools.partial(timed, "matching", loss.squared_wasserstein)


def build(trainer: str, place: str, options: argparse.Namespace) -> Any:
    """A trainer before its first step."""
    import torch
    from nnunetv2.paths import nnUNet_preprocessed
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    from nnunet_topomae.training.device_augmentation import DeviceAugmentingTrainer
    from nnunet_topomae.training.finetuner import TopoMAEFinetuner
    from nnunet_topomae.training.pretrainer import TopoMAEPretrainer

    kind = {"TopoMAEPretrainer": TopoMAEPretrainer, "TopoMAEFinetuner": TopoMAEFinetuner}.get(
        trainer, DeviceAugmentingTrainer
    )
    folder = Path(nnUNet_preprocessed, maybe_convert_to_dataset_name(options.dataset))
    plans = json.loads((folder / f"{options.plans}.json").read_text())
    plans["continue_training"] = False
    plans["topomae"] = {"partner": options.partner, "preset": options.preset, "pretrained": "none", "seed": 0}
    plans["topomae"] |= {"augment_on": place, "iterations_per_epoch": 10**6, "weight_topology": 100}
    changed = {"batch_size": options.batch, "patch_size": options.patch}
    plans["configurations"][options.configuration] |= {name: value for name, value in changed.items() if value}
    dataset_json = json.loads((folder / "dataset.json").read_text())
    built = kind(plans, options.configuration, options.fold, dataset_json, torch.device(options.device))
    built.num_iterations_per_epoch = 10**6
    if kind is DeviceAugmentingTrainer:
        built.augment_on, built.augmentation_seed = place, 0
    built.on_train_start()
    if kind is not DeviceAugmentingTrainer:
        built.lr_scheduler.warmup_steps = 0  # --warm-up trains
    built.on_epoch_start()
    built.on_train_epoch_start()
    return built


def watch(trainer: Any, stopwatch: Stopwatch) -> None:
    """Each part of a step of any of the trainers."""
    import torch

    from nnunet_topomae.topology.loss import PendingLoss
    from nnunet_topomae.training.prefetch import Prefetcher

    batches, network = trainer.dataloader_train, getattr(trainer, "plain_network", trainer.network)
    if isinstance(batches, Prefetcher):
        stopwatch.watch(batches, "_prepare", "augmentation")
        batches = batches.source
    loader = getattr(batches, "data_loader", None)
    if loader is not None and not isinstance(trainer.dataloader_train, Prefetcher):  # augments in this process
        stopwatch.watch(loader, "transforms", "augmentation")
    stopwatch.watch(type(batches), "__next__", "data") if loader is None else stopwatch.watch(
        loader, "generate_train_batch", "data"
    )
    stopwatch.watch(network, "forward", "forward, others")
    if getattr(network, "vit", None) is not None:
        stopwatch.watch(network.vit, "forward", "forward, ViT")
    stopwatch.watch(trainer.loss, "forward", "losses")
    if hasattr(trainer.loss, "target"):
        stopwatch.watch(trainer.loss, "target", "losses")
        stopwatch.watch(trainer.loss, "answered", "losses")
    result = PendingLoss.result
    PendingLoss.result = lambda self: stopwatch.time("waiting for topology", result, self)
    backward = torch.Tensor.backward
    torch.Tensor.backward = lambda self, *a, **k: stopwatch.time("backward", backward, self, *a, **k)
    stopwatch.watch(trainer.optimizer, "step", "optimiser")


def measure(trainer_name: str, place: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step, undisturbed and by part, and memory, in this process."""
    on_gpu, elapsed = options.device == "cuda", is_elapsed(options)
    with tempfile.TemporaryDirectory() as results:
        os.environ["nnUNet_results"] = results
        os.environ["nnUNet_compile"] = "t" if options.compile else "f"
        if not on_gpu:
            os.environ["nnUNet_n_proc_DA"] = "0"
        import torch

        torch.set_num_threads(1 if on_gpu else options.threads)  # on a GPU as nnUNetv2_train has it
        torch.backends.cudnn.benchmark = True
        clock = time.perf_counter if elapsed else time.thread_time
        synchronise = torch.cuda.synchronize if on_gpu else lambda: None
        engine: dict[str, float] = defaultdict(float)
        watch_engine(engine)
        trainer = build(trainer_name, place, options)

        def step() -> None:
            trainer.train_step(next(trainer.dataloader_train))

        def seconds_a_step() -> float:
            synchronise()
            begin = clock()
            for _ in range(options.steps):
                step()
            synchronise()
            return (clock() - begin) / options.steps

        for _ in range(options.warm_up):
            step()
        engine.clear()
        undisturbed = seconds_a_step()
        topology = {part: seconds / options.steps for part, seconds in engine.items()}
        without_topology = undisturbed
        if engine:
            config = trainer.config
            trainer.config = dataclasses.replace(config, topology_every=2**60)  # never again
            without_topology = seconds_a_step()
            trainer.config = config
        idle = idle_share(step, options.steps) if on_gpu else None

        stopwatch = Stopwatch(clock, synchronise)
        watch(trainer, stopwatch)
        for _ in range(options.steps):
            stopwatch.time("rest", step)
        trainer.on_train_end()
        return {
            "step": undisturbed if elapsed else undisturbed + sum(topology.values()),
            "without topology": without_topology,
            "parts": {part: stopwatch.seconds[part] / options.steps for part in PARTS},
            "engine": topology,
            "idle": idle,
            "host": memory_kilobytes("VmHWM") / 2**20,
            "device": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
            "volumes": trainer.batch_size,
            "patch": list(trainer.configuration_manager.patch_size),
        }


def idle_share(step: Callable[[], None], steps: int) -> float:
    """Part of the elapsed time in which no kernel ran and nothing was copied on the GPU."""
    import torch
    from torch.autograd import DeviceType

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    busy = [(e.time_range.start, e.time_range.end) for e in profile.events() if e.device_type == DeviceType.CUDA]
    return idle_between(busy)


def idle_between(busy: Sequence[tuple[float, float]]) -> float:
    """Share of the time from the first begin to the last end that no interval covers."""
    busy = sorted(busy)
    covered, reached = 0.0, busy[0][0]
    for begin, end in busy:
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return 1 - covered / (reached - busy[0][0])


def is_elapsed(options: argparse.Namespace) -> bool:
    """Whether times are elapsed ones, not CPU time."""
    return options.device == "cuda" or options.threads > 1


def table(results: dict[Key, list[dict[str, Any]]], on_gpu: bool) -> str:
    """A row a trainer and place, medians of the rounds. Seconds only of a GPU."""

    def median(key: Key, value: Callable[[dict], float]) -> float:
        return statistics.median(value(result) for result in results[key])

    def ratio(key: Key, seconds: str, of: Key, of_seconds: str) -> str:
        if key not in results or of not in results:
            return "–"
        return f"{median(key, itemgetter(seconds)) / median(of, itemgetter(of_seconds)):.2f}"

    rows = []
    for trainer, place in results:
        key = trainer, place
        row = [trainer, place]
        if on_gpu:
            seconds = median(key, itemgetter("step"))
            row += [f"{1000 * seconds:.0f} ms", f"{results[key][0]['volumes'] / seconds:.1f}"]
        row.append(ratio((trainer, "workers"), "step", key, "step"))
        row.append(ratio(key, "without topology", ("nnUNetTrainer", "workers"), "step"))
        for part in PARTS:
            row.append(f"{100 * median(key, lambda r, part=part: r['parts'][part] / sum(r['parts'].values())):.0f} %")
        for part in ENGINE:
            row.append(f"{100 * median(key, lambda r, part=part: r['engine'].get(part, 0) / r['step']):.0f} %")
        row.append(f"{100 * median(key, lambda r: 1 - r['without topology'] / r['step']):.0f} %")
        row.append(f"{median(key, lambda r: r['host']):.1f} GiB")
        if on_gpu:
            row += [f"{median(key, lambda r: r['device']):.1f} GiB", f"{100 * median(key, lambda r: r['idle']):.0f} %"]
        rows.append(row)
    head = [
        "trainer",
        "augments",
        *(["step", "volumes/s"] if on_gpu else []),
        "speed / workers",
        "without topology / nnU-Net",
        *PARTS,
    ]
    head += [*ENGINE, "topology adds", "host memory", *(["device memory", "GPU idle"] if on_gpu else [])]
    return markdown_table(head, rows)


def plan_phantom(width: int, folder: Path, end: float) -> int:
    """A synthetic data set in nnU-Net's folders below `folder`, planned until then; returns its number."""
    for kind in ("raw", "preprocessed"):
        os.environ[f"nnUNet_{kind}"] = str(folder / kind)
    from nnunet_topomae.data.phantom import write_phantom_dataset

    write_phantom_dataset(folder / "raw" / "Dataset100_Phantom", num_training=6, num_test=1, seed=0, width=width)
    command = [sys.executable, "-c", PLAN, "-d", "100", "-c", "3d_fullres", "-np", "2", "-npfp", "2"]
    environment = os.environ | {"nnUNet_results": str(folder / "results")}
    left = max(0, end - time.monotonic())
    try:
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, timeout=left)
    except subprocess.TimeoutExpired:
        raise SystemExit("the phantom could not be planned in time: give more --minutes, or a smaller one") from None
    return 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", help="number or name; or --phantom")
    parser.add_argument("configuration", nargs="?", default="3d_fullres")
    parser.add_argument("fold", nargs="?", type=int, default=0)
    parser.add_argument("-p", "--plans", default="nnUNetPlans", help="default: %(default)s")
    parser.add_argument("--phantom", type=int, metavar="WIDTH", help="make a data set about so many voxels wide")
    parser.add_argument("--partner", default="plan", help="of the ViT: plan or unetrpp (default: %(default)s)")
    parser.add_argument("--preset", default="tiny", help="default: %(default)s")
    parser.add_argument("--batch", type=int, help="default: that of the plans")
    parser.add_argument("--patch", type=int, nargs=3, metavar="VOXELS", help="default: that of the plans")
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, default=TRAINERS, help="default: all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on a CPU (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="with torch.compile; the parts are then less telling")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each pass (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="at most (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=10, help="the turns end by then (default: %(default)s)")
    add_docs(parser)
    options = parser.parse_args()
    if (options.dataset is None) == (options.phantom is None):
        parser.error("name a data set, or give --phantom WIDTH")
    signal.signal(signal.SIGTERM, _leave)
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        if options.phantom:
            options.dataset = plan_phantom(options.phantom, Path(folder), end)
        results, missing = take_turns(options, end)
    for (trainer, place), why in missing.items():
        print(f"{trainer} with {place}: {why}", file=sys.stderr)
    if results:
        report(options, results, missing)
    if missing:
        raise SystemExit("not everything was measured, see above")


def take_turns(options: argparse.Namespace, end: float) -> tuple[dict[Key, list[dict[str, Any]]], dict[Key, str]]:
    """As many rounds as end in time, or what can be had of the first; and what is missing of that, and why."""
    results: dict[Key, list[dict[str, Any]]] = {}
    missing: dict[Key, str] = {}
    keys = list(product(options.trainers, PLACES))
    for number in range(1, options.rounds + 1):
        begin, turn = time.monotonic(), {}
        for key in keys:
            result = take_turn(*key, options, end)
            if isinstance(result, str):
                missing[key] = result
            else:
                turn[key] = result
                print(f"round {number}: {' with '.join(key)} measured", flush=True)
            if missing and results:
                print(f"round {number} ended early: {result}", file=sys.stderr)
                return results, {}  # of whole rounds
        for key, result in turn.items():
            results.setdefault(key, []).append(result)
        now = time.monotonic()
        if missing or now + (now - begin) > end:
            break
    return results, missing


def take_turn(trainer: str, place: str, options: argparse.Namespace, end: float) -> dict[str, Any] | str:
    """What a process of its own measures, or why it has not."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    worker = context.Process(target=_in_process, args=(theirs, trainer, place, options))
    if time.monotonic() >= end:
        return "no time left"
    worker.start()
    theirs.close()  # so that its end shows here
    try:
        if not ours.poll(max(0, end - time.monotonic())):
            return "stopped, as the time was up"
        result = ours.recv()
        worker.join(timeout=10)
        return result
    except EOFError:
        worker.join()
        return f"its process ended with status {worker.exitcode}"
    finally:
        worker.terminate()
        worker.join(timeout=10)
        worker.kill()


def _in_process(results: Connection, trainer: str, place: str, options: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, _leave)
    try:
        results.send(measure(trainer, place, options))
    except Exception:
        results.send(traceback.format_exc())


def _leave(*_: Any) -> None:
    """On SIGTERM: temporary folders and processes are cleared away as after an error."""
    raise SystemExit(1)


def report(options: argparse.Namespace, results: dict[Key, list[dict[str, Any]]], missing: dict[Key, str]) -> None:
    first = next(iter(results.values()))
    patch = "×".join(map(str, first[0]["patch"]))
    what = f"a phantom {options.phantom} voxels wide" if options.phantom else str(options.dataset)
    timed = "elapsed time" if is_elapsed(options) else "CPU time"
    where = f"PyTorch on {options.threads} threads, {timed}; `data` and `augmentation` by the code of one worker"
    if options.device == "cuda":
        import torch

        where = torch.cuda.get_device_name() + (", torch.compile" if options.compile else ", without torch.compile")
    how = "-compiled" if options.compile else f"-{options.threads}" if options.threads > 1 else ""
    name = f"training-{options.device}{how}-{what.replace(' ', '-')}-{options.partner}-{options.preset}-{patch}"
    absent = ", ".join(" with ".join(key) for key in missing)
    text = f"""### A training step, {what}, partner {options.partner}, preset {options.preset}, patch {patch}

Written by `benchmarks/training.py` on {machine(PACKAGES)}, {where}.
Batch {first[0]["volumes"]}; rounds in which the trainers took turns: {len(first)}, of {options.steps} steps; medians.
After {options.warm_up} steps from random weights. Shares of a step; homology and matching (CPU time) run in threads of
their own, beside it. `topology adds`: 1 − step without topology / step; `without topology / nnU-Net`: that step over
nnU-Net's, with workers.

{table(results, options.device == "cuda")}

{f"Not measured, for want of time or by an error: {absent}." if absent else ""}
"""
    replace_section(options.docs / "benchmarks.md", name, text)
    print(text)


if __name__ == "__main__":
    main()
