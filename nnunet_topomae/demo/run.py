"""The method step by step, by nnU-Net's own commands, with the defaults of a user in few steps."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id

from nnunet_topomae.data.dataset_json import read_dataset_json
from nnunet_topomae.data.few_label import few_label_lists, write_few_label_split
from nnunet_topomae.data.phantom import write_phantom_dataset
from nnunet_topomae.data.raw_files import images_by_case, labels_by_case
from nnunet_topomae.data.raw_images import require_whole_dataset
from nnunet_topomae.demo.results import dice_table, draw_method
from nnunet_topomae.evaluation.classes import Classes
from nnunet_topomae.files import write_text
from nnunet_topomae.folders import EXT_TRAINER, external_trainers

PHANTOM = "Dataset100_Phantom"
CONFIGURATION, FOLD = "3d_fullres", "0"
PRETRAINER, FINETUNER = "TopoMAEPretrainer", "TopoMAEFinetuner"
COMMANDS = Path(sys.executable).parent  # this Python's nnU-Net, whichever the caller's PATH finds first
MARKER = ".topomae_demo"
FOLDERS = ("raw", "preprocessed", "results", "predictions", "logs")

# Minutes on two cores: a user's defaults in few steps. What is set in the environment already comes first.
BUDGET = {
    "NNUNET_TOPOMAE_SEED": "0",
    "NNUNET_TOPOMAE_ITERATIONS_PER_EPOCH": "20",
    "NNUNET_TOPOMAE_VAL_ITERATIONS_PER_EPOCH": "2",
    "NNUNET_TOPOMAE_PRETRAIN_EPOCHS": "2",
    "NNUNET_TOPOMAE_FINETUNE_EPOCHS": "8",
}


@dataclass(frozen=True)
class Shell:
    """Runs commands as a user would, with the demo's environment; output goes to a file a step."""

    environment: Mapping[str, str]
    logs: Path

    def run(self, title: str, *command: str) -> None:
        """Raises RuntimeError, after the end of the log has been printed, if the command fails."""
        log = self.logs / f"{len(list(self.logs.iterdir())) + 1}_{command[0]}.log"
        print(f"\n{title}, with its output in {log}\n  $ {shlex.join(command)}", flush=True)
        start = time.monotonic()
        path = os.pathsep.join([str(COMMANDS), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **self.environment}
        with log.open("w") as file:
            status = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT).returncode
        print(f"  {time.monotonic() - start:.0f} s", flush=True)
        if status:
            print("", *log.read_text(errors="replace").splitlines()[-25:], sep="\n", flush=True)
            raise RuntimeError(f"{command[0]} failed with status {status}: see {log}")


def run_demo(out: Path, dataset: Path | None, num_labelled: int | None, device: str) -> None:
    """Plan, preprocess, pre-train, fine-tune, predict the test cases, evaluate; a table of Dice and a picture.

    Args:
        out: folder for everything that is written. One from an earlier demo is replaced.
        dataset: any nnU-Net raw dataset; a phantom is written if None. Unless all test images have labels, the table is
            of the validation cases of fold 0.
        num_labelled: train on so many labelled cases of the dataset's `few_label_splits.json` (the rest unlabelled).
        device: cpu, cuda or mps.

    Raises:
        ValueError, OSError: bad input, before anything is written.
        RuntimeError: a command failed.
    """
    start = time.monotonic()
    if dataset is not None:
        _check_dataset(dataset, num_labelled)
        places = (dataset.resolve(), dataset.parent.resolve() / dataset.name)  # of the data, of a link to them
        if any(place.is_relative_to(out.expanduser().resolve()) for place in places):
            raise ValueError(f"{dataset} lies in {out}, which is emptied: move it, or name another folder with --out")
    elif num_labelled is not None:
        raise ValueError("--labels needs --dataset: the phantom has no few_label_splits.json")
    out = _fresh_folder(out)
    name = dataset.resolve().name if dataset else PHANTOM
    raw, preprocessed, trained = out / "raw" / name, out / "preprocessed" / name, out / "results" / name
    if dataset:
        raw.symlink_to(dataset.resolve(), target_is_directory=True)
    else:
        print(f"Writing a phantom data set to {raw}")
        write_phantom_dataset(raw, num_training=20, num_test=4, seed=0, width=32)
    shell = Shell(_environment(out), out / "logs")
    print("The commands below are nnU-Net's own. They work in any shell that has set:")
    print("\n".join(f"  export {variable}={shlex.quote(value)}" for variable, value in shell.environment.items()))
    print(f"  export PATH={shlex.quote(str(COMMANDS))}:$PATH")
    pretrained, finetuned = (
        trained / f"{trainer}__nnUNetPlans__{CONFIGURATION}" / f"fold_{FOLD}" for trainer in (PRETRAINER, FINETUNER)
    )
    has_test = _all_test_cases_have_labels(raw)
    predictions = out / "predictions" if has_test else finetuned / "validation"
    _train(shell, raw, preprocessed, num_labelled, device, steps=5 if has_test else 3)
    if has_test:
        _test(shell, raw, preprocessed, predictions, device)

    table, num_cases = dice_table(predictions, Classes.of_dataset(read_dataset_json(raw)))
    write_text(out / "dice.md", table + "\n")
    picture = draw_method(out / "method.png", preprocessed, pretrained, finetuned, CONFIGURATION)
    print(f"\nDice, mean over {num_cases} {'test' if has_test else 'validation'} cases:\n\n{table}\n")
    print("So all of it works. What pre-training gains takes real images and more steps: docs/benchmarks.md\n")
    for what, path in {
        "this table": out / "dice.md",
        "the method in one picture": picture or "none: panel_every is 0",
        "predictions, summary.json": predictions,
        "pre-training curves": pretrained / "progress.png",
        "pictures of reconstructions": pretrained / "validation",
        "fine-tuning curves": finetuned / "progress.png",
        "the model": finetuned / "checkpoint_final.pth",
        "logs": out / "logs",
    }.items():
        print(f"  {what:28} {path}")
    print(f"\nA page about both trainings: nnunet-topomae report {shlex.quote(str(trained))} -o report.html")
    print(f"\nDone in {time.monotonic() - start:.0f} s.")


def _train(shell: Shell, raw: Path, preprocessed: Path, num_labelled: int | None, device: str, steps: int) -> None:
    dataset, processes = _id(raw), str(_processes())
    shell.run(
        f"1/{steps} Plan and preprocess",
        *("nnUNetv2_plan_and_preprocess", "-d", dataset, "-c", CONFIGURATION, "-np", processes, "-npfp", processes),
    )
    if num_labelled is not None:
        split = write_few_label_split(raw / "few_label_splits.json", num_labelled, preprocessed)
        print(f"\nWrote {split}: {num_labelled} labelled cases in fold 0")
    train = ("nnUNetv2_train", dataset, CONFIGURATION, FOLD, "-device", device, "-tr")
    shell.run(f"2/{steps} Pre-train without labels", *train, PRETRAINER)
    shell.run(f"3/{steps} Fine-tune with labels, and segment the validation cases", *train, FINETUNER)


def _test(shell: Shell, raw: Path, preprocessed: Path, predictions: Path, device: str) -> None:
    shell.run(
        "4/5 Predict the test cases",
        *("nnUNetv2_predict", "-i", str(raw / "imagesTs"), "-o", str(predictions), "-d", _id(raw)),
        *("-c", CONFIGURATION, "-f", FOLD, "-tr", FINETUNER, "-device", device, "-npp", "1", "-nps", "1"),
    )
    shell.run(
        "5/5 Evaluate",
        *("nnUNetv2_evaluate_folder", str(raw / "labelsTs"), str(predictions), "-np", "1"),
        *("-djfile", str(raw / "dataset.json"), "-pfile", str(preprocessed / "nnUNetPlans.json")),
    )


def _id(raw: Path) -> str:
    return str(convert_dataset_name_to_id(raw.name))


def _all_test_cases_have_labels(raw: Path) -> bool:
    ending = read_dataset_json(raw)["file_ending"]
    labels, images = labels_by_case(raw / "labelsTs", ending), images_by_case(raw / "imagesTs", ending)
    return bool(labels) and labels.keys() == images.keys()


def _check_dataset(dataset: Path, num_labelled: int | None) -> None:
    for needed in ("dataset.json", "imagesTr", "labelsTr"):
        if not (dataset / needed).exists():
            raise FileNotFoundError(f"{dataset} has no {needed}: it is not a dataset in nnU-Net's raw format")
    if not re.match(r"Dataset\d{3}_", dataset.resolve().name):
        raise ValueError(f"{dataset} must be named DatasetXXX_Name, XXX a number of three digits, as nnU-Net wants it")
    if num_labelled is not None:
        few_label_lists(dataset / "few_label_splits.json", num_labelled)
    require_whole_dataset(dataset)


def _fresh_folder(out: Path) -> Path:
    """An empty folder tree for a demo. Only what an earlier demo made is removed."""
    out = out.expanduser().absolute()
    if out.exists() and not (out / MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and no demo made it: name another folder with --out")
    for folder in FOLDERS:
        shutil.rmtree(out / folder, ignore_errors=True)
        (out / folder).mkdir(parents=True)
    (out / MARKER).touch()
    return out


def _environment(out: Path) -> dict[str, str]:
    """nnU-Net's folders, the trainers, processes to suit the cores beside a training on the CPU, and our knobs."""
    workers = str(_processes() // 2 or 1)
    folders = {f"nnUNet_{name}": str(out / name) for name in ("raw", "preprocessed", "results")}
    processes = {"nnUNet_def_n_proc": workers, "nnUNet_n_proc_DA": workers}
    knobs = {variable: os.environ.get(variable, value) for variable, value in BUDGET.items()}
    return folders | {EXT_TRAINER: external_trainers()} | processes | knobs


def _processes() -> int:
    return min(os.cpu_count() or 1, 8)
