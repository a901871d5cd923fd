"""What tests share: the real development data where present, a phantom planned and preprocessed, trainers on it."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import entry_points
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nnunetv2.utilities.utils
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_topomae import cli
from nnunet_topomae.data.phantom import write_phantom_dataset
from nnunet_topomae.folders import trainers_folder

REPOSITORY = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the planned phantom plans it, and trains on it; a second device is compiled: not for `make quick`."""
    for item in items:
        if isinstance(item, pytest.Function) and {"phantom", "second_device"} & set(item.fixturenames):
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def listing_files_forks_nothing() -> Iterator[None]:
    """nnU-Net forks twelve times for each list of a data set's files: a second, from a process with PyTorch in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nnunetv2.utilities.utils, "Pool", lambda processes: ThreadPool(1))
        yield


@pytest.fixture(scope="session", autouse=True)
def autograd_survives_forks() -> None:
    """PyTorch counts devices at the first backward pass, and on a CPU alone allows forks after it.

    Memory estimates use fake tensors, which pretend that there is a CUDA device: it must not be counted.
    """
    torch.zeros(1, requires_grad=True).sum().backward()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the development data is not at {folder}")
    return folder


@pytest.fixture(scope="session")
def planned_network() -> Callable[..., dict[str, Any]]:
    """The section `architecture` of a configuration in nnU-Net's plans, as narrow as it gets."""

    def architecture(network: str, strides: list[list[int]], max_features: int = 16) -> dict[str, Any]:
        stages = len(strides)
        blocks = "n_conv_per_stage" if network == "PlainConvUNet" else "n_blocks_per_stage"
        return {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": [min(max_features, 4 * 2**stage) for stage in range(stages)],
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[1, 3, 3], *[[3, 3, 3]] * (stages - 1)],
                "strides": strides,
                blocks: [1] * stages,
                "n_conv_per_stage_decoder": [1] * (stages - 1),
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }

    return architecture


BUDGET = {
    "preset": "tiny",
    "partner": "unetrpp",  # the smaller one
    "pretrain_epochs": 1,
    "finetune_epochs": 1,
    "iterations_per_epoch": 2,
    "vit_steps": 2,
    "val_iterations_per_epoch": 1,
    "weight_topology": 100,
    "weight_position": 0.1,
    "weight_consistency_points": 0.1,
    "topology_max_side": 12,
    "seed": 0,  # what a network says after one step must not change from run to run
}
SMALLEST = {f"NNUNET_TOPOMAE_{name.upper()}": value for name, value in BUDGET.items()} | {
    "NNUNET_TOPOMAE_ITERATIONS_PER_EPOCH": 1,
    "nnUNet_n_proc_DA": 0,
}


@contextmanager
def environment(**variables: object) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, str(value))
        yield patch


@contextmanager
def threads_for_processes(**variables: object) -> Iterator[pytest.MonkeyPatch]:
    """Pools that nnU-Net opens meanwhile hold one thread, and PyTorch gets no more than one."""
    with environment(**variables) as patch:
        threads = SimpleNamespace(Pool=lambda num_processes: ThreadPool(1))
        patch.setattr(multiprocessing, "get_context", lambda method=None: threads)
        patch.setattr(multiprocessing, "cpu_count", lambda: 1)
        patch.setattr("nnunet_topomae.training.pretrainer.VALIDATION_CROPS", 1)
        yield patch


@dataclass(frozen=True)
class Dataset:
    """A data set in nnU-Net's folders, and what users do with it.

    `run` starts a command. `call` runs it in this process, `train`, `validate` and `predict` do what nnUNetv2_train and
    nnUNetv2_predict do; each saves the five or more seconds that processes take to import nnU-Net.
    """

    dataset_id: int
    dataset_name: str
    raw: Path
    preprocessed: Path
    results: Path

    @property
    def raw_dataset(self) -> Path:
        return self.raw / self.dataset_name

    @property
    def preprocessed_dataset(self) -> Path:
        return self.preprocessed / self.dataset_name

    @property
    def plans(self) -> dict[str, Any]:
        return json.loads((self.preprocessed_dataset / "nnUNetPlans.json").read_text())

    @property
    def cases(self) -> list[str]:
        return sorted(file.name.removesuffix(".nii.gz") for file in (self.raw_dataset / "labelsTr").glob("*.nii.gz"))

    def model(self, trainer: str = "TopoMAEFinetuner", configuration: str = "3d_fullres") -> Path:
        return self.results / self.dataset_name / f"{trainer}__nnUNetPlans__{configuration}"

    def run(self, *command: object, check: bool = True, **env: object) -> subprocess.CompletedProcess[str]:
        """Run a command installed beside this Python, such as nnUNetv2_train, with `env` added to the environment.

        Output and errors come together in `.stdout`. With `check`, an exit status other than 0 fails the test and
        shows them.
        """
        program, *arguments = map(str, command)
        done = subprocess.run(
            [Path(sys.executable).parent / program, *arguments],
            env=os.environ | {name: str(value) for name, value in env.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,  # on a GPU the networks are compiled first
        )
        if check and done.returncode:
            pytest.fail(f"{program} ended with status {done.returncode}:\n{done.stdout[-4000:]}")
        return done

    def call(self, command: str, *arguments: object, check: bool = True, **env: object) -> str:
        """As `run`, in this process; returns what is printed. An exception ends it, or without `check` is printed."""
        (entry_point,) = entry_points(group="console_scripts", name=command)
        printed = io.StringIO()
        with threads_for_processes(**env) as patch, redirect_stdout(printed):
            patch.setattr(sys, "argv", [command, *map(str, arguments)])
            try:
                entry_point.load()()
            except Exception:
                if check:
                    raise
                traceback.print_exc(file=printed)
        return printed.getvalue()

    def plan(self) -> None:
        """By nnU-Net, which takes 0 data workers for a number of threads."""
        command = ("nnUNetv2_plan_and_preprocess", "-d", self.dataset_id, "-c", "3d_fullres", "-np", 1, "-npfp", 1)
        self.call(*command, nnUNet_n_proc_DA=1)
        file = self.preprocessed_dataset / "nnUNetPlans.json"
        plans = json.loads(file.read_text())
        plans["configurations"]["3d_fullres"]["median_image_size_in_voxels"] = [33, 33, 33]  # else position is left out
        file.write_text(json.dumps(plans))

    def write_split(self, *folds: tuple[Sequence[int], Sequence[int]]) -> None:
        """splits_final.json with (training, validation) cases by number."""
        cases = self.cases
        split = [{"train": [cases[i] for i in train], "val": [cases[i] for i in val]} for train, val in folds]
        (self.preprocessed_dataset / "splits_final.json").write_text(json.dumps(split))

    def build(
        self, trainer: str, configuration: str = "3d_fullres", fold: int | str = 0, plans: str = "nnUNetPlans"
    ) -> nnUNetTrainer:
        return get_trainer_from_args(
            str(self.dataset_id), configuration, fold, trainer, plans, device=torch.device("cpu")
        )

    def train(self, trainer: str, configuration: str = "3d_fullres", fold: int | str = 0) -> nnUNetTrainer:
        """Without the validation that follows in nnUNetv2_train."""
        built = self.build(trainer, configuration, fold)
        built.run_training()
        return built

    def validate(self, trainer: nnUNetTrainer, probabilities: bool = False) -> dict[str, Any]:
        """The validation that follows a training in nnUNetv2_train; its summary.json."""
        with threads_for_processes():
            trainer.perform_actual_validation(probabilities)
        return json.loads(Path(trainer.output_folder, "validation", "summary.json").read_text())

    def predict(
        self, output: Path, model: Path | None = None, folds: Sequence[int | str] = (0,), probabilities: bool = False
    ) -> None:
        """The test cases, without test-time augmentation."""
        predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model or self.model()), folds)
        output.mkdir(parents=True, exist_ok=True)
        predictor.predict_from_files_sequential(str(self.raw_dataset / "imagesTs"), str(output), probabilities, True)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    """Six training and two test cases about 32 voxels wide, planned and preprocessed for 3d_fullres.

    nnUNet_raw, nnUNet_preprocessed, nnUNet_results and nnUNet_extTrainer are set while the session lasts; training
    uses one data augmentation worker unless a test sets nnUNet_n_proc_DA.
    """
    base = tmp_path_factory.mktemp("nnunet")
    phantom = Dataset(100, "Dataset100_Phantom", base / "raw", base / "preprocessed", base / "results")
    write_phantom_dataset(phantom.raw_dataset, num_training=6, num_test=2, seed=0, width=32)
    with environment(
        nnUNet_raw=phantom.raw,
        nnUNet_preprocessed=phantom.preprocessed,
        nnUNet_results=phantom.results,
        nnUNet_extTrainer=trainers_folder(),
        nnUNet_def_n_proc=1,
        nnUNet_n_proc_DA=1,
        PYTHONPATH=os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]),
        MPLBACKEND="Agg",
        OMP_WAIT_POLICY="PASSIVE",  # a command takes all cores, which tests share
    ):
        phantom.plan()
        yield phantom


@pytest.fixture(scope="module")
def smallest_budget(phantom: Dataset) -> Iterator[None]:
    """The smallest that trains at all, in the environment of trainings in this process."""
    with environment(**SMALLEST):
        torch.set_num_threads(1)
        yield


@pytest.fixture(scope="session")
def train() -> Callable[..., str]:
    """nnUNetv2_train on a dataset like `phantom`, with the smallest budget and `env` added to it; what it prints."""

    def train(
        dataset: Dataset,
        trainer: str,
        fold: int | str = 0,
        check: bool = True,
        options: Sequence[object] = (),
        **env: object,
    ) -> str:
        command = ("nnUNetv2_train", dataset.dataset_id, "3d_fullres", fold, "-tr", trainer, "-device", "cpu")
        return dataset.call(*command, *options, check=check, **SMALLEST | env)

    return train


@pytest.fixture(scope="session")
def read() -> Callable[[Path], np.ndarray]:
    """The voxels [D, H, W] of an image file."""
    return lambda file: sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command of nnunet-topomae that must end with status 2 and one line, where `saying` is found."""

    def refused(command: str, *arguments: object, saying: str) -> None:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main([*command.split(), *map(str, arguments)])
        lines = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2 and len(lines) == 1
        assert re.search(saying, lines[0])

    return refused


@pytest.fixture
def free_port() -> Callable[[], int]:
    def port() -> int:
        with socket.socket() as listener:
            listener.bind(("localhost", 0))
            return listener.getsockname()[1]

    return port


@pytest.fixture
def on_two_ranks(tmp_path: Path, free_port: Callable[[], int]) -> Callable[[Callable[[int], Any]], list]:
    """Calls a function with its rank in two processes, in an environment as of torchrun; returns their results.

    The processes are forks: the function may be a closure, and nothing has to be imported again.
    """

    def process(function: Callable[[int], Any], rank: int, port: int) -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        torch.set_num_threads(1)
        try:
            torch.save(function(rank), tmp_path / f"rank_{rank}.pt")
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def run(function: Callable[[int], Any]) -> list:
        fork, port = multiprocessing.get_context("fork"), free_port()
        processes = [fork.Process(target=process, args=(function, rank, port)) for rank in range(2)]
        for each in processes:
            each.start()
        for each in processes:
            each.join(timeout=600)
        states = [each.exitcode for each in processes]
        for each in processes:
            each.kill()
        assert states == [0, 0], "a process failed: see its traceback in the captured errors"
        return [torch.load(tmp_path / f"rank_{rank}.pt", weights_only=False) for rank in range(2)]

    return run


@dataclass(frozen=True)
class Workshop:
    """A private copy of the phantom's preprocessed folder and an empty results folder, both set for nnU-Net."""

    dataset: Path
    results: Path

    @property
    def plans(self) -> dict:
        return json.loads((self.dataset / "nnUNetPlans.json").read_text())

    @property
    def images(self) -> Path:
        return self.dataset / "nnUNetPlans_3d_fullres"

    def build(
        self, trainer: type[nnUNetTrainer], configuration: str = "3d_fullres", plans=None, **knobs
    ) -> nnUNetTrainer:
        plans = plans or self.plans
        plans["topomae"] = BUDGET | knobs
        plans["continue_training"] = False
        dataset_json = json.loads((self.dataset / "dataset.json").read_text())
        return trainer(
            plans=plans, configuration=configuration, fold=0, dataset_json=dataset_json, device=torch.device("cpu")
        )


@pytest.fixture(scope="session")
def open_workshop(phantom) -> Callable[[Path], AbstractContextManager[Workshop]]:
    """Makes a workshop in a folder; nnU-Net's folders are set to it within the context."""

    @contextmanager
    def open_workshop(folder: Path) -> Iterator[Workshop]:
        workshop = Workshop(folder / "preprocessed" / phantom.dataset_name, folder / "results" / phantom.dataset_name)
        shutil.copytree(phantom.preprocessed_dataset, workshop.dataset)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("nnUNet_preprocessed", str(folder / "preprocessed"))
            patch.setenv("nnUNet_results", str(folder / "results"))
            patch.setenv("nnUNet_n_proc_DA", "0")  # in this process, in order
            patch.setattr("nnunet_topomae.training.pretrainer.VALIDATION_CROPS", 1)
            patch.setattr("nnunet_topomae.training.pretrainer.NUM_CROPS", 2)
            yield workshop

    return open_workshop


@pytest.fixture
def workshop(open_workshop, tmp_path: Path) -> Iterator[Workshop]:
    with open_workshop(tmp_path) as workshop:
        yield workshop


@dataclass(frozen=True)
class Trained:
    """A pre-training and the fine-tuning of it, two epochs each, the first of them validated. To be read alone."""

    workshop: Workshop
    pretrainer: nnUNetTrainer
    finetuner: nnUNetTrainer

    @property
    def pretrained(self) -> Path:
        """The checkpoint."""
        return Path(self.pretrainer.output_folder, "checkpoint_final.pth")


@pytest.fixture(scope="session")
def trained(open_workshop, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from nnunet_topomae.training.finetuner import TopoMAEFinetuner
    from nnunet_topomae.training.pretrainer import TopoMAEPretrainer

    torch.set_num_threads(1)
    with open_workshop(tmp_path_factory.mktemp("trained")) as workshop:
        pretrainer = workshop.build(TopoMAEPretrainer, pretrain_epochs=2, panel_every=2)
        pretrainer.run_training()
        pretrainer.perform_actual_validation()
        finetuner = workshop.build(TopoMAEFinetuner, finetune_epochs=2, finetune_weight_topology=0.1)
        finetuner.run_training()
    return Trained(workshop, pretrainer, finetuner)
