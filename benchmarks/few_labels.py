"""Few labels: does pre-training on one's own images help, against the same network from scratch and plain nnU-Net?

    python benchmarks/few_labels.py -d DATASET --labels 8 40 --seeds 3 --budget minutes --out FOLDER

The dataset is planned and preprocessed by nnU-Net and has a few_label_splits.json. Every arm trains on the same
labelled cases with the same number of optimiser steps; pre-training sees images of labelled and unlabelled cases,
never of validation. Half of the validation cases is for choosing between settings, the other half for reporting
(`few_labels_report.py`). What is done is kept in FOLDER: run again to go on. Nothing is written elsewhere.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path

from few_labels_report import write_report
from machine import REPOSITORY

from nnunet_topomae.config import ConfigError, TopoMAEConfig, environment_name
from nnunet_topomae.data.few_label import as_fold
from nnunet_topomae.evaluation.segmentation import ON_DEMAND
from nnunet_topomae.networks.presets import PRESETS

PLANS = "fewLabelPlans"
CONFIGURATION = "3d_fullres"
NNUNET, NNUNET_ADAM = "nnUNetTrainer", "nnUNetTrainerAdam1en3"  # SGD; AdamW at 1e-3, which nnU-Net brings, too
FROM_SCRATCH = "TopoMAEFinetunerFromScratch"

RECONSTRUCTION_ALONE = {
    "weight_topology": 0,
    "weight_position": 0,
    "weight_consistency_points": 0,
    "weight_consistency_reconstruction": 0,
}
PRETRAININGS: dict[str, dict[str, object]] = {
    "reconstruction": RECONSTRUCTION_ALONE,
    "topology": {
        "weight_position": 0,
        "weight_consistency_points": 0,
        "weight_consistency_reconstruction": 0,
    },
    "position": {"weight_consistency_points": 0, "weight_consistency_reconstruction": 0},
    "full": {},
    "plan_reconstruction": {"partner": "plan", **RECONSTRUCTION_ALONE},
    "plan_full": {"partner": "plan"},
    "plan_shape": {
        "partner": "plan",
        **RECONSTRUCTION_ALONE,
        "weight_topology": 400,
        "topology_scale": 4,
        "topology_place": 0.1,
    },
}


@dataclass(frozen=True)
class Arm:
    """One way to train a segmentation network.

    Attributes:
        meaning: for the table.
        trainer: nnU-Net's name of it.
        pretraining: a name out of `PRETRAININGS`; None starts from scratch.
        knobs: of fine-tuning.
        without: parts of the trained network that its answers are measured without, too (`networks/ablation.py`).
        teachers: the arm whose trainings label the unlabelled images, two seeds of it (`pseudo_labels.py`).
        continues: the arm whose trained network, of the same labels and seed, is trained on.
    """

    meaning: str
    trainer: str = "TopoMAEFinetuner"
    pretraining: str | None = None
    knobs: Mapping[str, object] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    teachers: str | None = None
    continues: str | None = None


PLAN, WITHOUT_VIT = {"partner": "plan"}, {"fusion": "partner_only"}

ARMS = {
    "nnunet": Arm("nnU-Net (nnUNetTrainer)", NNUNET),
    "nnunet_adam": Arm("nnU-Net with AdamW (nnUNetTrainerAdam1en3)", NNUNET_ADAM),
    "nnunet_da5": Arm("nnU-Net with AdamW and its strongest augmentation", "nnUNetTrainerDA5Adam1en3"),
    "pseudo_labels": Arm("pseudo-labels: AdamW taught by two of AdamW", NNUNET_ADAM, teachers="nnunet_adam"),
    "scratch": Arm("hybrid from scratch", FROM_SCRATCH),
    "reconstruction": Arm("pre-trained: reconstruction", pretraining="reconstruction"),
    "topology": Arm("pre-trained: + topology", pretraining="topology"),
    "position": Arm("pre-trained: + position", pretraining="position"),
    "full": Arm("pre-trained: + consistency (full method)", pretraining="full", without=("vit_mean", "epa_identity")),
    "unetrpp": Arm("full method, UNETR++ alone", pretraining="full", knobs=WITHOUT_VIT),
}
ARMS |= {  # nnU-Net's own network in the place of UNETR++, which the others have
    "plan_scratch": Arm("nnU-Net's network + ViT from scratch", FROM_SCRATCH, knobs=PLAN),
    "plan_scratch_no_vit": Arm("nnU-Net's network, our schedule", FROM_SCRATCH, knobs=PLAN | WITHOUT_VIT),
    "plan_reconstruction": Arm(
        "nnU-Net's network + ViT: reconstruction", pretraining="plan_reconstruction", knobs=PLAN
    ),
    "plan_reconstruction_no_vit": Arm(
        "nnU-Net's network: reconstruction, ViT left out", pretraining="plan_reconstruction", knobs=PLAN | WITHOUT_VIT
    ),
    "plan_full": Arm(
        "nnU-Net's network + ViT: full method", pretraining="plan_full", knobs=PLAN, without=("vit_mean",)
    ),
    "plan_full_no_vit": Arm(
        "nnU-Net's network: full method, ViT left out", pretraining="plan_full", knobs=PLAN | WITHOUT_VIT
    ),
    "plan_exported": Arm("full method, fine-tuned by nnU-Net", NNUNET, pretraining="plan_full"),
    "plan_exported_adam": Arm("full method, fine-tuned by nnU-Net with AdamW", NNUNET_ADAM, pretraining="plan_full"),
}
ARMS["plan_full_da5"] = replace(
    ARMS["plan_full_no_vit"],
    meaning="full method, ViT left out, nnU-Net's strongest augmentation",
    trainer="DA5Finetuner",
)
SHAPE = PLAN | WITHOUT_VIT | {"finetune_weight_topology": 0.1, "topology_place": 0.1}
ARMS |= {  # where topology matters: beside plan_reconstruction_no_vit, shape in pre-training, in segmentation, in both
    "shape_pretraining": Arm("pre-trained: + shape", pretraining="plan_shape", knobs=PLAN | WITHOUT_VIT),
    "shape_segmentation": Arm("segmentation: + shape", pretraining="plan_reconstruction", knobs=SHAPE),
    "shape_both": Arm("both: + shape", pretraining="plan_shape", knobs=SHAPE),
    "soft_cldice": Arm(
        "segmentation: + soft clDice", "SoftClDiceFinetuner", "plan_reconstruction", knobs=PLAN | WITHOUT_VIT
    ),
}
ON = {"knobs": PLAN | WITHOUT_VIT | {"finetune_lr": 1e-3}, "continues": "plan_full_no_vit"}
ARMS |= {  # a network that is trained out on its labels, and as many steps more
    "more_labels": Arm("trained on, on its labels", FROM_SCRATCH, **ON),
    "more_mean_teacher": Arm("trained on, with a mean teacher", "MeanTeacherFinetuner", **ON),
}
DEFAULT_ARMS = ("nnunet", "plan_scratch_no_vit", "plan_full_no_vit", "plan_full", "scratch", "unetrpp", "full")


@dataclass(frozen=True)
class Budget:
    """How much is trained.

    Attributes:
        preset: size of our networks; auto: what each has by default.
        side: no side of the patch is longer; 0 keeps the plan's.
        batch: images a step; 0 keeps the plan's.
        pretrain_steps, finetune_steps: optimiser steps.
        mirroring: test-time mirroring, as nnU-Net does it.
    """

    preset: str
    side: int
    batch: int
    pretrain_steps: int
    finetune_steps: int
    mirroring: bool


STEPS_PER_EPOCH = 50
SET_ELSEWHERE = {
    "preset",
    "partner",
    "seed",
    "iterations_per_epoch",
    "val_iterations_per_epoch",
    "pretrain_epochs",
    "finetune_epochs",
}
BUDGETS = {  # the time of one run of `full`
    "minutes": Budget("tiny", 32, 2, 2000, 600, False),  # tens of minutes, one core
    "hour": Budget("small", 32, 2, 3000, 600, False),  # one core
    "day": Budget("small", 0, 2, 5000, 5000, False),  # hours of one core a run; what was interrupted goes on
    "gpu-hours": Budget("auto", 64, 2, 10000, 5000, True),
    "gpu-day": Budget("auto", 0, 0, 125000, 125000, True),
}


@dataclass(frozen=True)
class Run:
    """A training of one arm: on a fold of `labels` labelled cases, from one seed."""

    arm: str
    labels: int
    seed: int
    fold: int

    def folder(self, out: Path) -> Path:
        return out / "runs" / self.arm / f"labels_{self.labels}" / f"seed_{self.seed}"

    def model(self, out: Path, dataset: str) -> Path:
        """nnU-Net's results folder."""
        return self.folder(out) / dataset / f"{ARMS[self.arm].trainer}__{PLANS}__{CONFIGURATION}"


def main() -> None:
    options = _options()
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    budget = replace(BUDGETS[options.budget], **{name: value for name, value in options.instead.items() if value})
    settings = {"budget": budget.__dict__, "knobs": options.set, "dataset": options.dataset, "plans": options.plans}
    _keep_settings(out, settings)
    pretraining_out = (options.pretrained or out).absolute()
    folds = _private_dataset(out, options, budget)
    seeds = range(options.seeds)
    runs = [Run(arm, k, seed, folds[k]) for seed in seeds for k in options.labels for arm in options.arms]
    runs = [run for run in runs if not (run.folder(out) / "metrics.json").is_file()]

    # Pre-training sees the images of labelled and unlabelled cases: one serves all numbers of labels that share them.
    shared = _folds_with_the_same_images(out, options.dataset)
    pretrainings = {
        run: (ARMS[run.arm].pretraining, shared[run.fold], run.seed % options.pretrainings)
        for run in runs
        if ARMS[run.arm].pretraining
    }
    checkpoints = {run: _pretrained(pretraining_out, *pretraining) for run, pretraining in pretrainings.items()}
    needed = sorted({pretraining for run, pretraining in pretrainings.items() if not checkpoints[run].is_file()})
    common = {**options.set, "preset": budget.preset, "partner": "unetrpp", "iterations_per_epoch": STEPS_PER_EPOCH}
    _in_processes(_pretrain, [(out, pretraining_out, options, budget, common, *p) for p in needed], options.jobs)
    _in_processes(_finetune, [(out, options, budget, common, run, checkpoints.get(run)) for run in runs], options.jobs)
    for path in write_report(out, "report"):
        print(path)


def _pretrained(out: Path, name: str, fold: int, seed: int) -> Path:
    return out / "pretraining" / name / f"fold_{fold}" / f"seed_{seed}" / "weights.pth"


def _pretrain(out, pretraining_out, options, budget, common, name, fold, seed) -> str:
    checkpoint = _pretrained(pretraining_out, name, fold, seed)
    knobs = {
        # The paper's, as the runs in docs/benchmarks.md have them.
        **{"weight_topology": 100, "weight_position": 0.1, "weight_consistency_points": 0.1},
        **common,
        **PRETRAININGS[name],
        "seed": seed,
        "pretrain_epochs": _epochs(budget.pretrain_steps),
        "val_iterations_per_epoch": 2,
    }
    _set_environment(out, checkpoint.parent, knobs)
    trainer = _train("TopoMAEPretrainer", fold, options, budget)
    # Linked, not copied: the long path of nnU-Net's results folder is the file's home.
    checkpoint.symlink_to(Path(trainer.output_folder, "checkpoint_final.pth"))
    return f"pre-training {name}, seed {seed}"


def _finetune(out, options, budget, common, run: Run, checkpoint: Path | None) -> str:
    arm, folder = ARMS[run.arm], run.folder(out)
    epochs = _epochs(budget.finetune_steps)
    knobs = {**common, **arm.knobs, "seed": run.seed, "finetune_epochs": epochs, "val_iterations_per_epoch": 2}
    if checkpoint:
        knobs["pretrained"] = checkpoint
    _set_environment(out, folder, knobs)
    if arm.teachers:
        os.environ["nnUNet_preprocessed"] = str(_pseudo_labelled(out, options, run))
    start = time.monotonic()
    trainer = _train(arm.trainer, run.fold, options, budget, checkpoint, _trained(out, options, run))
    seconds = time.monotonic() - start
    if not budget.mirroring:
        trainer.inference_allowed_mirroring_axes = None
    result = {"arm": run.arm, "meaning": arm.meaning, "labels": run.labels, "seed": run.seed, "seconds": round(seconds)}
    result |= _validate(trainer, options.metrics)
    result["without"] = {part: _validate_without(part, trainer, options.metrics)["cases"] for part in arm.without}
    partial = folder / "metrics.json.partial"
    partial.write_text(json.dumps(result, indent=1))
    partial.rename(folder / "metrics.json")
    return f"{run.arm}, {run.labels} labels, seed {run.seed}"


def _trained(out: Path, options: argparse.Namespace, run: Run) -> Path | None:
    """The checkpoint of the run that this one continues."""
    if (before := ARMS[run.arm].continues) is None:
        return None
    model = replace(run, arm=before).model(options.pretrained or out, options.dataset)
    return model / f"fold_{run.fold}" / "checkpoint_final.pth"


def _train(name: str, fold: int, options, budget: Budget, pretraining: Path | None = None, trained: Path | None = None):
    """A finished training with the trainer class of that name. Ours find the pre-training in their knobs."""
    import numpy as np
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    from nnunet_topomae.training.trainer import TopoMAETrainer

    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    trainer = get_trainer_from_args(options.dataset, CONFIGURATION, fold, name, PLANS, device=device)
    if not isinstance(trainer, TopoMAETrainer):  # knows none of our knobs
        seed = int(os.environ[environment_name("seed")])
        torch.manual_seed(seed)
        np.random.seed(seed)
        trainer.num_epochs = _epochs(budget.finetune_steps)
        trainer.num_iterations_per_epoch = STEPS_PER_EPOCH
        trainer.num_val_iterations_per_epoch = 2
        trainer.save_every = 1  # as ours: an interrupted run loses an epoch
        if pretraining:
            _load_exported(trainer, pretraining)
    if trained:
        trainer.initialize()
        weights = torch.load(trained, map_location=device, weights_only=False)["network_weights"]
        trainer.plain_network.load_state_dict(weights)
    if Path(trainer.output_folder, "checkpoint_latest.pth").is_file():
        trainer.load_checkpoint(str(Path(trainer.output_folder, "checkpoint_latest.pth")))
    trainer.run_training()
    return trainer


def _load_exported(trainer, pretraining: Path) -> None:
    """As `nnUNetv2_train -pretrained_weights` does, of what `nnunet-topomae export-encoder` writes."""
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    from nnunet_topomae.export import export_encoders

    files = export_encoders(pretraining, Path(trainer.output_folder, "exported"), overwrite=True)
    trainer.initialize()
    load_pretrained_weights(trainer.network, next(file for file in files if file.name.endswith("_nnunet.pth")))


def _pseudo_labelled(out: Path, options: argparse.Namespace, run: Run) -> Path:
    """The folder of preprocessed datasets in which the unlabelled images have labels; written where there is none."""
    from pseudo_labels import write_pseudo_labelled_dataset

    home = out / "pseudo_labels" / f"labels_{run.labels}"
    target, teachers = home / options.dataset, ARMS[run.arm].teachers
    if not (target / "dataset.json").is_file():
        home_of_runs = options.teachers or out
        runs = [Run(teachers, run.labels, seed, run.fold) for seed in range(2)]
        folders = [teacher.folder(home_of_runs) for teacher in runs]
        if missing := [str(folder) for folder in folders if not (folder / "metrics.json").is_file()]:
            raise FileNotFoundError(f"train {teachers} with two seeds first: there is no {', no '.join(missing)}")
        models = [teacher.model(home_of_runs, options.dataset) for teacher in runs]
        source = out / "preprocessed" / options.dataset
        data = json.loads((source / f"{PLANS}.json").read_text())["configurations"][CONFIGURATION]["data_identifier"]
        write_pseudo_labelled_dataset(source, target, run.fold, models, data)
    return home


def _validate(trainer, metrics: Sequence[str]) -> dict[str, dict]:
    """`cases` and, after largest components of every class, `largest_component`: metrics of nnU-Net's validation."""
    trainer.perform_actual_validation()
    return _measure(Path(trainer.output_folder, "validation"), Path(trainer.preprocessed_dataset_folder_base), metrics)


def _validate_without(part: str, trainer, metrics: Sequence[str]) -> dict[str, dict]:
    """The same of the trained network without one of its parts; predictions go to a folder beside."""
    from nnunet_topomae.networks.ablation import ablated

    home = trainer.output_folder
    trainer.output_folder = str(Path(home, f"without_{part}"))
    Path(trainer.output_folder).mkdir(exist_ok=True)
    with ablated(trainer.plain_network, part):
        cases = _validate(trainer, metrics)
    trainer.output_folder = home
    return cases


def _measure(predictions: Path, preprocessed: Path, metrics: Sequence[str]) -> dict[str, dict]:
    """Measures by case, then class, of the predictions and of their largest components."""
    from nnunet_topomae.data.dataset_json import read_dataset_json
    from nnunet_topomae.evaluation.classes import Classes
    from nnunet_topomae.evaluation.folder import LARGEST, evaluate_folder
    from nnunet_topomae.evaluation.pairs import pair_files

    description = read_dataset_json(preprocessed)
    folder = pair_files(preprocessed / "gt_segmentations", predictions, description, only_predicted=True)
    classes = Classes.of_dataset(description)
    summary = evaluate_folder(folder, classes, on_demand=metrics, largest_component=list(classes.names))
    names = summary["label_names"]
    return {
        key: {
            pair.name: {names[label]: measures for label, measures in case["metrics"].items()}
            for pair, case in zip(folder.pairs, measured["metric_per_case"], strict=True)
        }
        for key, measured in (("cases", summary), (LARGEST, summary[LARGEST]))
    }


def _private_dataset(out: Path, options: argparse.Namespace, budget: Budget) -> dict[int, int]:
    """A preprocessed dataset of links, with plans and splits of its own; the fold of each number of labels."""
    source = Path(os.environ["nnUNet_preprocessed"], options.dataset)
    target = out / "preprocessed" / options.dataset
    target.mkdir(parents=True, exist_ok=True)
    entries = json.loads(options.splits.read_text())
    missing = sorted({str(k) for k in options.labels} - set(entries))
    if missing:
        sys.exit(f"{options.splits} has no split with {', '.join(missing)} labels, only {', '.join(entries)}")
    plans = json.loads((source / f"{options.plans}.json").read_text())
    plans["plans_name"] = PLANS
    configuration = plans["configurations"][CONFIGURATION]
    if budget.side:
        # Sides of nnU-Net's patches are multiples of the pooling; so is any power of two that is large enough.
        configuration["patch_size"] = [min(side, budget.side) for side in configuration["patch_size"]]
    configuration["batch_size"] = budget.batch or configuration["batch_size"]
    folds = [as_fold(entry) for entry in entries.values()]
    for name in (configuration["data_identifier"], "gt_segmentations", "dataset.json", "dataset_fingerprint.json"):
        if not (target / name).exists():
            (target / name).symlink_to((source / name).resolve())
    (target / f"{PLANS}.json").write_text(json.dumps(plans, indent=1))
    (target / "splits_final.json").write_text(json.dumps(folds))
    return {int(k): fold for fold, k in enumerate(entries)}


def _folds_with_the_same_images(out: Path, dataset: str) -> dict[int, int]:
    """Of each fold the first fold whose training and unlabelled cases are the same."""
    folds = json.loads((out / "preprocessed" / dataset / "splits_final.json").read_text())
    images = [sorted(fold["train"] + fold["unlabelled"]) for fold in folds]
    return {fold: images.index(cases) for fold, cases in enumerate(images)}


def _keep_settings(out: Path, settings: dict) -> None:
    """Runs of different settings do not mix in one folder."""
    file = out / "settings.json"
    text = json.dumps(settings, indent=1, default=str)
    if file.is_file() and file.read_text() != text:
        sys.exit(f"{out} was begun with other settings ({file}): name another folder with --out")
    file.write_text(text)


def _set_environment(out: Path, results: Path, knobs: Mapping[str, object]) -> None:
    """Before nnU-Net is imported: it reads its folders then."""
    results.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "nnUNet_preprocessed": str(out / "preprocessed"),
        "nnUNet_results": str(results),
        "nnUNet_extTrainer": os.pathsep.join(f"{REPOSITORY}/{home}" for home in ("trainers", "benchmarks/trainers")),
        **{environment_name(name): str(value) for name, value in knobs.items()},
    }


def _epochs(steps: int) -> int:
    return -(-steps // STEPS_PER_EPOCH)


def _in_processes(function, tasks: list[tuple], jobs: int) -> None:
    """Each task in a fresh process; one that fails is reported, and the others go on."""
    if not tasks:
        return
    begin, failed = time.monotonic(), 0
    processes = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, processes, initializer=_end_with_parent, max_tasks_per_child=1) as pool:
        futures = [pool.submit(_quietly, function, task) for task in tasks]
        for done, future in enumerate(as_completed(futures), start=1):
            message, succeeded = future.result()
            failed += not succeeded
            print(f"[{done}/{len(tasks)}, {(time.monotonic() - begin) / 60:.0f} min] {message}", flush=True)
    if failed:
        sys.exit(f"{failed} of {len(tasks)} did not end well; run again to go on")


def _end_with_parent() -> None:
    """Of this process and its data workers: a parent that is killed would leave them training."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        for worker in multiprocessing.active_children():
            worker.kill()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _quietly(function, task: tuple) -> tuple[str, bool]:
    log = task[0] / "logs" / f"{function.__name__.strip('_')}_{os.getpid()}.txt"
    log.parent.mkdir(exist_ok=True)
    with log.open("w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        try:
            return function(*task), True
        except Exception as error:  # noqa: BLE001 - the other runs are to go on
            traceback.print_exc()
            return f"failed, see {log}: {error}", False


def _knob(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not KNOB=VALUE")
    return name, value


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", "--dataset", required=True, help="name, as in Dataset004_Hippocampus")
    parser.add_argument("-p", "--plans", default="nnUNetPlans", help="default: %(default)s")
    parser.add_argument("--splits", type=Path, help="default: few_label_splits.json of the raw dataset")
    parser.add_argument("--labels", type=int, nargs="+", default=[8, 40], metavar="K")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pretrainings", type=int, help="pre-train this many seeds, used in turn (default: --seeds)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=DEFAULT_ARMS, metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--budget", choices=BUDGETS, default="minutes")
    parser.add_argument("--preset", choices=("auto", *PRESETS), help="instead of the budget's")
    parser.add_argument("--side", type=int, help="no side of the patch is longer, instead of the budget's")
    parser.add_argument("--pretrain-steps", type=int, help="instead of the budget's")
    parser.add_argument("--finetune-steps", type=int, help="instead of the budget's")
    parser.add_argument(
        "--set", type=_knob, nargs="+", action="extend", default=[], metavar="KNOB=VALUE", help="for all arms of ours"
    )
    parser.add_argument("--pretrained", type=Path, metavar="FOLDER", help="an earlier --out: use its pre-trainings")
    parser.add_argument("--teachers", type=Path, metavar="FOLDER", help="an earlier --out: its runs give pseudo-labels")
    parser.add_argument("--metrics", nargs="+", choices=ON_DEMAND, default=[], help="of cases, besides the usual ones")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="of a run on the CPU")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.splits is None:
        if "nnUNet_raw" not in os.environ:
            parser.error("set nnUNet_raw, or name the file by --splits")
        options.splits = Path(os.environ["nnUNet_raw"], options.dataset, "few_label_splits.json")
    options.set = dict(options.set)
    try:
        TopoMAEConfig.resolve({}, {environment_name(knob): value for knob, value in options.set.items()})
    except ConfigError as error:
        parser.error(f"--set: {error}")
    if taken := sorted(SET_ELSEWHERE.intersection(options.set)):
        parser.error(f"--set: {', '.join(taken)} would be overridden by the budget, --preset, --seeds and --arms")
    instead = ("preset", "side", "pretrain_steps", "finetune_steps")
    options.instead = {name: getattr(options, name) for name in instead}
    options.pretrainings = options.pretrainings or options.seeds
    return options


if __name__ == "__main__":
    main()
