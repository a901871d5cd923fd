"""Datasets made from the phantom, and nnU-Net on them with the smallest budget that trains at all."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

KNOBS = {
    "NNUNET_TOPOMAE_PRESET": "tiny",
    "NNUNET_TOPOMAE_PARTNER": "unetrpp",  # the smaller one
    "NNUNET_TOPOMAE_SEED": 0,  # what a network says after one step must not change from run to run
    "NNUNET_TOPOMAE_PRETRAIN_EPOCHS": 1,
    "NNUNET_TOPOMAE_FINETUNE_EPOCHS": 1,
    "NNUNET_TOPOMAE_ITERATIONS_PER_EPOCH": 1,
    "NNUNET_TOPOMAE_VIT_STEPS": 2,
    "NNUNET_TOPOMAE_VAL_ITERATIONS_PER_EPOCH": 1,
    "NNUNET_TOPOMAE_TOPOLOGY_MAX_SIDE": 12,
}
BUDGET = KNOBS | {"nnUNet_n_proc_DA": 0, "nnUNet_def_n_proc": 1}
CPU = torch.device("cpu")


@contextmanager
def budget(**env: object) -> Iterator[None]:
    """The smallest, and `env`, in the environment of trainings in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (BUDGET | env).items():
            patch.setenv(name, str(value))
        torch.set_num_threads(1)
        yield


@pytest.fixture(scope="module")
def smallest_budget(phantom) -> Iterator[None]:
    with budget():
        yield


@dataclass(frozen=True)
class Dataset:
    """A dataset in the phantom's nnU-Net folders.

    `run` starts a command. `call` runs one in this process, `train`, `validate` and `predict` do what nnUNetv2_train
    and nnUNetv2_predict do; each saves the ten or more seconds that processes take to import nnU-Net.
    """

    phantom: object
    dataset_id: int
    name: str

    @property
    def raw(self) -> Path:
        return self.phantom.raw / self.name

    @property
    def preprocessed(self) -> Path:
        return self.phantom.preprocessed / self.name

    @property
    def cases(self) -> list[str]:
        return sorted(file.name.removesuffix(".nii.gz") for file in (self.raw / "labelsTr").glob("*.nii.gz"))

    @property
    def phantom_plans(self) -> dict:
        return json.loads((self.phantom.preprocessed_dataset / "nnUNetPlans.json").read_text())

    def model(self, trainer: str = "TopoMAEFinetuner", configuration: str = "3d_fullres") -> Path:
        return self.phantom.results / self.name / f"{trainer}__nnUNetPlans__{configuration}"

    def run(self, *command: object, check: bool = True, **env: object):
        return self.phantom.run(*command, check=check, **env)

    def write_split(self, *folds: tuple[Sequence[int], Sequence[int]]) -> None:
        """splits_final.json with (training, validation) cases by number."""
        cases = self.cases
        split = [{"train": [cases[i] for i in train], "val": [cases[i] for i in val]} for train, val in folds]
        (self.preprocessed / "splits_final.json").write_text(json.dumps(split))

    def plan(self) -> None:
        self.run(
            *("nnUNetv2_plan_and_preprocess", "-d", self.dataset_id, "-c", "3d_fullres", "-np", 1, "-npfp", 1),
            nnUNet_n_proc_DA=1,  # the planner takes 0 for a number of threads
        )

    def plan_like_phantom(self, **configurations: dict) -> None:
        """The phantom's plans and fingerprint, with other `configurations`; nnU-Net's preprocessing in this process."""
        self.preprocessed.mkdir()
        theirs = self.phantom.preprocessed_dataset
        shutil.copyfile(theirs / "dataset_fingerprint.json", self.preprocessed / "dataset_fingerprint.json")
        plans = self.phantom_plans | {"dataset_name": self.name}
        plans["configurations"].update(configurations)
        (self.preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
        shutil.copyfile(self.raw / "dataset.json", self.preprocessed / "dataset.json")
        shutil.copytree(self.raw / "labelsTr", self.preprocessed / "gt_segmentations")
        with_data = {name for name, own in configurations.items() if "data_identifier" in own}
        for configuration in sorted({"3d_fullres"} | with_data):
            self._preprocess(PlansManager(plans), configuration)

    def _preprocess(self, plans: PlansManager, configuration: str) -> None:
        manager = plans.get_configuration(configuration)
        folder = self.preprocessed / manager.data_identifier
        folder.mkdir()
        for case in self.cases:
            manager.preprocessor_class(verbose=False).run_case_save(
                str(folder / case),
                [str(file) for file in sorted((self.raw / "imagesTr").glob(f"{case}_*.nii.gz"))],
                str(self.raw / "labelsTr" / f"{case}.nii.gz"),
                *(plans, manager, str(self.raw / "dataset.json")),
            )

    def build(self, trainer: str, configuration: str = "3d_fullres", fold: int | str = 0) -> nnUNetTrainer:
        return get_trainer_from_args(str(self.dataset_id), configuration, fold, trainer, device=CPU)

    def train(self, trainer: str, configuration: str = "3d_fullres", fold: int | str = 0) -> nnUNetTrainer:
        """Without the validation that follows in nnUNetv2_train."""
        built = self.build(trainer, configuration, fold)
        built.run_training()
        return built

    def validate(self, trainer: nnUNetTrainer, probabilities: bool = False) -> dict:
        """The validation that follows a training in nnUNetv2_train; its summary.json."""
        with _threads_for_processes():
            trainer.perform_actual_validation(probabilities)
        return json.loads(Path(trainer.output_folder, "validation", "summary.json").read_text())

    def call(self, command: str, *arguments: object) -> None:
        (entry_point,) = entry_points(group="console_scripts", name=command)
        with _threads_for_processes() as patch:
            patch.setattr(sys, "argv", [command, *map(str, arguments)])
            entry_point.load()()

    def predict(
        self,
        output: Path,
        model: Path | None = None,
        folds: Sequence[int | str] = (0,),
        tta: bool = False,
        probabilities: bool = False,
        previous_stage: Path | None = None,
    ) -> None:
        predictor = nnUNetPredictor(use_mirroring=tta, device=CPU, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model or self.model()), folds)
        output.mkdir(parents=True, exist_ok=True)
        predictor.predict_from_files_sequential(
            str(self.raw / "imagesTs"), str(output), probabilities, True, previous_stage and str(previous_stage)
        )


@contextmanager
def _threads_for_processes() -> Iterator[pytest.MonkeyPatch]:
    """Pools that nnU-Net opens meanwhile hold one thread."""
    with pytest.MonkeyPatch.context() as patch:
        threads = SimpleNamespace(Pool=lambda num_processes: ThreadPool(1))
        patch.setattr(multiprocessing, "get_context", lambda method=None: threads)
        yield patch


@pytest.fixture(scope="module")
def dataset_of(phantom, smallest_budget) -> Callable[[int, str], Dataset]:
    """A dataset that lies in the phantom's nnU-Net folders already, by number and name."""
    return lambda dataset_id, name: Dataset(phantom, dataset_id, name)


@pytest.fixture(scope="module")
def derive(phantom, smallest_budget) -> Callable[..., Dataset]:
    """A dataset of the phantom's first cases with other labels or images: `derive(id, name, num_cases, ...)`.

    `change` gets an image or a label [D, H, W] and returns another one; `channels` makes the channels of an image.
    """

    def derive(
        dataset_id: int,
        name: str,
        num_cases: int,
        description: dict | None = None,
        change_label: Callable[[np.ndarray], np.ndarray] = lambda label: label,
        channels: Callable[[np.ndarray], Sequence[np.ndarray]] = lambda image: [image],
        spacing: tuple[float, float, float] | None = None,
    ) -> Dataset:
        dataset = Dataset(phantom, dataset_id, f"Dataset{dataset_id}_{name}")
        theirs = json.loads((phantom.raw_dataset / "dataset.json").read_text())
        dataset.raw.mkdir()
        content = theirs | {"name": dataset.name, "numTraining": num_cases} | (description or {})
        (dataset.raw / "dataset.json").write_text(json.dumps(content))
        for split, count in (("Tr", num_cases), ("Ts", 2)):
            labels = sorted((phantom.raw_dataset / f"labels{split}").glob("*.nii.gz"))[:count]
            for file in labels:
                case = file.name.removesuffix(".nii.gz")
                _rewrite(file, [dataset.raw / f"labels{split}" / file.name], lambda x: [change_label(x)], spacing)
                image = phantom.raw_dataset / f"images{split}" / f"{case}_0000.nii.gz"
                outputs = [
                    dataset.raw / f"images{split}" / f"{case}_{channel:04d}.nii.gz"
                    for channel in range(len(content["channel_names"]))
                ]
                _rewrite(image, outputs, channels, spacing)
        return dataset

    return derive


def _rewrite(file: Path, outputs: Sequence[Path], change: Callable, spacing: tuple[float, float, float] | None) -> None:
    image = sitk.ReadImage(str(file))
    for output, array in zip(outputs, change(sitk.GetArrayFromImage(image)), strict=True):
        output.parent.mkdir(exist_ok=True)
        changed = sitk.GetImageFromArray(array)
        changed.SetSpacing(spacing[::-1] if spacing else image.GetSpacing())
        sitk.WriteImage(changed, str(output))


@pytest.fixture(scope="session")
def read() -> Callable[[Path], np.ndarray]:
    """The voxels [D, H, W] of an image file."""
    return lambda file: sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


@pytest.fixture(scope="session")
def train() -> Callable[..., str]:
    """nnUNetv2_train on a dataset like `phantom`, with the smallest budget and `env` added to it; what it prints."""

    def train(
        dataset,
        trainer: str,
        fold: int = 0,
        check: bool = True,
        device: str = "cpu",
        options: Sequence[object] = (),
        **env: object,
    ) -> str:
        command = ("nnUNetv2_train", dataset.dataset_id, "3d_fullres", fold, "-tr", trainer, "-device", device)
        return dataset.run(*command, *options, check=check, **KNOBS | env).stdout

    return train


@pytest.fixture(scope="session")
def train_here() -> Callable[..., nnUNetTrainer]:
    """As `train`, but in this process and without the validation that follows; returns the trainer."""

    def train_here(dataset, trainer: str, plans: str = "nnUNetPlans", **env: object) -> nnUNetTrainer:
        with budget(**env):
            built = get_trainer_from_args(str(dataset.dataset_id), "3d_fullres", 0, trainer, plans, device=CPU)
            built.run_training()
            return built

    return train_here
