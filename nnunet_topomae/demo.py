"""The whole method on a small data set, by nnU-Net's own commands: `nnunet-topomae demo`."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import load_summary_json
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id

from nnunet_topomae.data.few_label import write_few_label_split
from nnunet_topomae.data.phantom import write_phantom_dataset
from nnunet_topomae.data.raw_images import require_whole_dataset
from nnunet_topomae.evaluation.held_out import Case, HeldOut
from nnunet_topomae.evaluation.thresholds import Baselines, trivial_baselines
from nnunet_topomae.folders import EXT_TRAINER, external_trainers
from nnunet_topomae.monitoring.panels import labels_in_panel, read_panels
from nnunet_topomae.planning.plans_file import configuration_of, read_plans
from nnunet_topomae.report.runs import NETWORKS
from nnunet_topomae.visualization.method import MethodRow, save_method_figure
from nnunet_topomae.visualization.segmentation import SegmentedCase, save_segmentation_figure
from nnunet_topomae.visualization.tables import markdown_table

PHANTOM = "Dataset100_Phantom"
CONFIGURATION, FOLD = "3d_fullres", "0"
ARMS = {"pre-trained": "TopoMAEFinetuner", "from scratch": "TopoMAEFinetunerFromScratch"}
COMMANDS = Path(sys.executable).parent  # this Python's nnU-Net, whichever the caller's PATH finds first
MARKER = ".topomae_demo"
FOLDERS = ("raw", "preprocessed", "results", "held_out", "predictions", "logs")

# For minutes on two cores. What is set in the environment already comes first.
BUDGET = {
    "NNUNET_TOPOMAE_PRESET": "tiny",
    "NNUNET_TOPOMAE_PARTNER": "unetrpp",
    "NNUNET_TOPOMAE_PRETRAIN_EPOCHS": "2",
    "NNUNET_TOPOMAE_FINETUNE_EPOCHS": "8",
    "NNUNET_TOPOMAE_ITERATIONS_PER_EPOCH": "40",
    "NNUNET_TOPOMAE_VAL_ITERATIONS_PER_EPOCH": "4",
    "NNUNET_TOPOMAE_FINETUNE_LR": "1e-2",
    "NNUNET_TOPOMAE_VIT_STEPS": "1",
}


class DemoError(RuntimeError):
    """What went wrong and what to do, for the command line."""


@dataclass(frozen=True)
class Shell:
    """Runs commands as a user would, with the demo's environment; output goes to a file a step."""

    environment: Mapping[str, str]
    logs: Path

    def run(self, title: str, *command: str) -> None:
        """Raises DemoError, after the end of the log has been printed, if the command fails."""
        log = self.logs / f"{len(list(self.logs.iterdir())) + 1}_{command[0]}.log"
        print(f"\n{title}\n  $ {shlex.join(command)}", flush=True)
        start = time.monotonic()
        path = os.pathsep.join([str(COMMANDS), os.environ["PATH"]])
        process = subprocess.Popen(
            command,
            env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        with process, log.open("w", buffering=1) as file:
            for line in process.stdout:
                file.write(line)
                if line.strip():
                    _show_progress(time.monotonic() - start, line)
        _show_progress(time.monotonic() - start, f"done, log in {log}", last=True)
        if process.returncode:
            print(f"\nThe end of {log}:\n", *log.read_text().splitlines()[-25:], sep="\n", flush=True)
            raise DemoError(f"{command[0]} failed with status {process.returncode}: see {log}")


def _show_progress(seconds: float, line: str, last: bool = False) -> None:
    """The newest line of output, in place on a terminal; elsewhere only the last one."""
    text = f"  {seconds:4.0f} s  {line.strip()}"
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print("\r" + (text if last else text[:width].ljust(width)), end="\n" if last else "", flush=True)
    elif last:
        print(text, flush=True)


def run_demo(out: Path, dataset: Path | None, num_labelled: int | None, device: str) -> None:
    """Plan, preprocess, pre-train, fine-tune, the same from scratch, predict held-out cases, evaluate; print Dice.

    Args:
        out: folder for everything that is written. One from an earlier demo is replaced.
        dataset: any nnU-Net raw dataset; a phantom is written if None. Without test labels the validation cases of
            fold 0 are held out.
        num_labelled: train on so many labelled cases of the dataset's `few_label_splits.json` (the rest unlabelled).
        device: cpu, cuda or mps.

    Raises:
        DemoError: bad input, or a command failed.
    """
    start = time.monotonic()
    if dataset is not None:
        _check_dataset(dataset, num_labelled)
    elif num_labelled is not None:
        raise DemoError("--labels needs --dataset: the phantom has no few_label_splits.json")
    out = _fresh_folder(out)
    name = dataset.resolve().name if dataset else PHANTOM
    raw, preprocessed = out / "raw" / name, out / "preprocessed" / name
    if dataset:
        raw.symlink_to(dataset.resolve(), target_is_directory=True)
    else:
        print(f"Writing a phantom data set to {raw}")
        write_phantom_dataset(raw, num_training=20, num_test=4, seed=0, width=32)

    shell = Shell(_environment(out), out / "logs")
    print("The commands below are nnU-Net's own. They work in any shell that has set:")
    print("\n".join(f"  export {variable}={shlex.quote(value)}" for variable, value in shell.environment.items()))
    print(f"  export PATH={shlex.quote(str(COMMANDS))}:$PATH")
    dataset_id = str(convert_dataset_name_to_id(name))
    train = ("nnUNetv2_train", dataset_id, CONFIGURATION, FOLD, "-device", device, "-tr")

    shell.run(
        "1/8 Plan and preprocess",
        *("nnUNetv2_plan_and_preprocess", "-d", dataset_id, "-c", CONFIGURATION),
        *("-np", str(_processes()), "-npfp", str(_processes())),
    )
    if num_labelled is not None:
        split = write_few_label_split(raw / "few_label_splits.json", num_labelled, preprocessed)
        print(f"\nWrote {split}: {num_labelled} labelled cases in fold 0")
    shell.run("2/8 Pre-train without labels", *train, "TopoMAEPretrainer")
    shell.run("3/8 Fine-tune with labels", *train, ARMS["pre-trained"])
    shell.run("4/8 Train the same network from scratch, to compare", *train, ARMS["from scratch"])

    held_out = HeldOut.link(raw, preprocessed, out / "held_out")
    for number, (arm, trainer) in enumerate(ARMS.items()):
        predictions = str(out / "predictions" / trainer)
        shell.run(
            f"{5 + 2 * number}/8 Predict {len(held_out.test)} held-out cases, {arm}",
            *("nnUNetv2_predict", "-i", str(held_out.images), "-o", predictions, "-d", dataset_id),
            *("-c", CONFIGURATION, "-f", FOLD, "-tr", trainer, "-device", device, "-npp", "1", "-nps", "1"),
        )
        shell.run(
            f"{6 + 2 * number}/8 Evaluate, {arm}",
            *("nnUNetv2_evaluate_folder", str(held_out.labels), predictions, "-djfile", str(raw / "dataset.json")),
            *("-pfile", str(preprocessed / "nnUNetPlans.json"), "-np", "1"),
        )
    _report(out, preprocessed, held_out, start)


def _report(out: Path, preprocessed: Path, held_out: HeldOut, start: float) -> None:
    dice = {}
    for arm, trainer in ARMS.items():
        mean = load_summary_json(str(out / "predictions" / trainer / "summary.json"))["mean"]
        dice[arm] = {name: mean[label]["Dice"] for name, label in held_out.classes.items()}
    baselines = trivial_baselines(
        held_out.read(held_out.training),
        held_out.read(held_out.test),
        held_out.classes,
        held_out.description["labels"].get("ignore"),
    )
    table = dice_table(dice, baselines)
    (out / "dice.md").write_text(table + "\n")
    _draw_predictions(out / "predictions.png", held_out, out / "predictions" / ARMS["pre-trained"])
    results = out / "results" / preprocessed.name
    pretrained, finetuned, from_scratch = (
        results / f"{trainer}__nnUNetPlans__{CONFIGURATION}" / f"fold_{FOLD}"
        for trainer in ("TopoMAEPretrainer", *ARMS.values())
    )
    rows = _method_rows(preprocessed, held_out, pretrained, dict(zip(ARMS, (finetuned, from_scratch), strict=True)))
    method = out / "method.png"
    method.unlink(missing_ok=True)
    if rows:  # none where panel_every is 0
        save_method_figure(method, rows, _names(held_out))
    print(f"\nDice, mean over {len(held_out.test)} held-out cases:\n\n{table}\n")
    print(
        f"{len(held_out.test)} cases and minutes of training show that all of it works, not what pre-training gains:\n"
        "which column is ahead may change with the seed. What it gains on real images: docs/benchmarks.md\n"
    )
    for what, path in {
        "this table": out / "dice.md",
        **({"the method in one picture": method} if rows else {}),
        "pictures of predictions": out / "predictions.png",
        "predictions, summary.json": out / "predictions",
        "pre-training curves": pretrained / "progress.png",
        "pictures of reconstructions": pretrained / "validation",
        "fine-tuning curves": finetuned / "progress.png",
        "the model": finetuned / "checkpoint_final.pth",
        "logs": out / "logs",
    }.items():
        print(f"  {what:28} {path}")
    print(f"\nA page about the three trainings: nnunet-topomae report {shlex.quote(str(results))} -o report.html")
    print(f"\nDone in {time.monotonic() - start:.0f} s.")


def dice_table(dice: Mapping[str, Mapping[str, float]], baselines: Baselines) -> str:
    """A Markdown table: a row a class and one for their mean, a column an arm and one a trivial baseline."""
    columns = {**dice, "best threshold": baselines.threshold, "all background": baselines.background}
    rows = [[name, *(f"{column[name]:.3f}" for column in columns.values())] for name in baselines.background]
    rows += [["mean", *(f"{np.nanmean(list(column.values())):.3f}" for column in columns.values())]]
    return markdown_table(["class", *columns], rows)


def _draw_predictions(path: Path, held_out: HeldOut, predictions: Path, count: int = 4) -> None:
    cases = []
    for name, case in list(held_out.test.items())[:count]:
        image, spacing = held_out.read_image(case)
        prediction = held_out.read_label(case._replace(label=predictions / case.label.name))
        cases.append(SegmentedCase(name, image[0], held_out.read_label(case), prediction, spacing))
    save_segmentation_figure(path, cases, _names(held_out))


def _method_rows(preprocessed: Path, held_out: HeldOut, pretrained: Path, arms: Mapping[str, Path]) -> list[MethodRow]:
    """What was made of crops of validation cases, by the results folders of the pre-training and of each arm."""
    panels = read_panels(pretrained / "progress")
    if not panels:
        return []
    plans, ending = read_plans(preprocessed, "nnUNetPlans"), held_out.description["file_ending"]
    images = str(preprocessed / configuration_of(plans, CONFIGURATION).data_identifier)
    dataset = infer_dataset_class(images)(images)
    rows = []
    for panel in (panel for panel in panels if panel.epoch == panels[-1].epoch):
        *_, properties = dataset.load_case(panel.case)
        reference, *predictions = (
            labels_in_panel(
                panel,
                held_out.read_label(Case([], folder / f"{panel.case}{ending}")),
                plans["transpose_forward"],
                properties["bbox_used_for_cropping"],
            )
            for folder in (preprocessed / "gt_segmentations", *(folder / "validation" for folder in arms.values()))
        )
        rows.append(
            MethodRow(
                panel.case,
                panel.image,
                panel.mask,
                {NETWORKS[name]: volume for name, volume in panel.completed.items()},
                reference,
                dict(zip(arms, predictions, strict=True)),
                panel.voxel_size,
            )
        )
    return rows


def _names(held_out: HeldOut) -> dict[int, str]:
    return {label: name for name, label in held_out.classes.items() if isinstance(label, int)}


def _check_dataset(dataset: Path, num_labelled: int | None) -> None:
    for needed in ("dataset.json", "imagesTr", "labelsTr"):
        if not (dataset / needed).exists():
            raise DemoError(f"{dataset} has no {needed}: it is not a dataset in nnU-Net's raw format")
    name = dataset.resolve().name
    if not (name.startswith("Dataset") and name[7:10].isdigit() and name[10:11] == "_"):
        raise DemoError(f"{dataset} must be named DatasetXXX_Name, XXX a number of three digits, as nnU-Net wants it")
    if num_labelled is not None and not (dataset / "few_label_splits.json").is_file():
        raise DemoError(f"--labels needs {dataset / 'few_label_splits.json'}, which does not exist")
    try:
        require_whole_dataset(dataset)
    except (OSError, ValueError) as error:
        raise DemoError(str(error)) from error


def _fresh_folder(out: Path) -> Path:
    """An empty folder tree for a demo. Only what an earlier demo made is removed."""
    out = out.expanduser().absolute()
    if out.exists() and not (out / MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DemoError(f"{out} exists and no demo made it: name another folder with --out")
    for folder in FOLDERS:
        shutil.rmtree(out / folder, ignore_errors=True)
        (out / folder).mkdir(parents=True)
    (out / MARKER).touch()
    return out


def _environment(out: Path) -> dict[str, str]:
    """nnU-Net's folders, the trainers, processes to suit the cores beside a training on the CPU, and our knobs."""
    return {
        "nnUNet_raw": str(out / "raw"),
        "nnUNet_preprocessed": str(out / "preprocessed"),
        "nnUNet_results": str(out / "results"),
        EXT_TRAINER: external_trainers(),
        "nnUNet_def_n_proc": str(_processes() // 2 or 1),
        "nnUNet_n_proc_DA": str(_processes() // 2 or 1),
        **{variable: os.environ.get(variable, value) for variable, value in BUDGET.items()},
    }


def _processes() -> int:
    return min(os.cpu_count() or 1, 8)
