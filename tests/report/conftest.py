"""Results folders as trainers leave them, written by hand, and a browser to look at their page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.monitoring.panels import Panel, write_panels
from nnunet_topomae.pretext.position import crop_at, nine_points
from nnunet_topomae.report.page import write_report

DATASET = "Dataset777_Report"
SHAPE = (12, 20, 16)
SPACING = (2.0, 1.0, 1.0)
LABELS = {"background": 0, "liver": 1, "tumour <b>&": 2}
CASES = ("case_1", "case_2", 'case "3" [x] <script>alert(1)</script>')


@dataclass(frozen=True)
class Results:
    """nnU-Net's folders with one dataset; each method adds to a results folder and returns the fold's folder."""

    base: Path

    @property
    def dataset(self) -> Path:
        return self.base / "results" / DATASET

    def fold(self, trainer: str = "nnUNetTrainer", checkpoint: str | None = "final", **changes: Any) -> Path:
        """A training of two epochs, without validation."""
        model = self.dataset / f"{trainer}__nnUNetPlans__3d_fullres"
        folder = model / f"fold_{changes.pop('fold', 0)}"
        folder.mkdir(parents=True)
        ours = trainer.startswith("TopoMAE")
        knobs = changes.pop("knobs", {})
        plans = {
            "dataset_name": DATASET,
            "plans_name": "nnUNetPlans",
            "configurations": {"3d_fullres": {"patch_size": [8, 8, 8], "spacing": list(SPACING), "architecture": {}}},
        } | ({"topomae": TopoMAEConfig(**knobs).to_section()} if ours else {})
        dataset_json = {"channel_names": {"0": "CT"}, "labels": LABELS, "file_ending": ".nii.gz", "numTraining": 3}
        debug = {"num_epochs": "2", "initial_lr": "0.01", "num_iterations_per_epoch": "250", "device": "cpu"}
        (model / "plans.json").write_text(json.dumps(plans))
        (model / "dataset.json").write_text(json.dumps(dataset_json))
        (folder / "debug.json").write_text(json.dumps(debug | ({"config": "..."} if ours else {})))
        if checkpoint:
            logging = {
                "train_losses": [np.float32(0.5), np.float32(0.25)],
                "val_losses": [np.float64(0.6), np.float64(0.3)],
                "lrs": [0.01, 0.005],
                "mean_fg_dice": [] if ours else [np.float64(0.4), np.float64(0.7)],
                "dice_per_class_or_region": [] if ours else [[np.float32(0.4)] * 2, [np.float32(0.7)] * 2],
                "epoch_start_timestamps": [100.0, 110.0],
                "epoch_end_timestamps": [109.0, 130.0],
            } | changes.pop("logging", {})
            content = {
                "network_weights": {"layer.weight": torch.zeros(2)},
                "logging": logging,
                "init_args": {"plans": plans, "dataset_json": dataset_json, "fold": 0, "configuration": "3d_fullres"},
            }
            torch.save(content | changes, folder / f"checkpoint_{checkpoint}.pth")
        return folder

    def segmentation(self, trainer: str = "nnUNetTrainer", shift: int = 1, **options: Any) -> Path:
        """A training whose predictions are the references, moved: the later the case, the further."""
        folder = self.fold(trainer, **options)
        (folder / "validation").mkdir()
        measured = {}
        for number, case in enumerate(CASES):
            truth = reference(number)
            prediction = np.roll(truth, shift * number, axis=1)
            name = f"{case.replace('/', '_')}.nii.gz"
            write_image(self.base / "preprocessed" / DATASET / "gt_segmentations" / name, truth)
            write_image(folder / "validation" / name, prediction)
            image = truth * 100 + np.random.default_rng(number).normal(size=SHAPE) * 10
            raw = self.base / "raw" / DATASET
            write_image(raw / "imagesTr" / name.replace(".nii.gz", "_0000.nii.gz"), image.astype(np.float32))
            write_image(raw / "labelsTr" / name, truth)
            shutil.copyfile(folder.parent / "dataset.json", raw / "dataset.json")
            measured[name.removesuffix(".nii.gz")] = {key: dice(prediction, truth, int(key)) for key in ("1", "2")}
        self.summary(folder, measured)
        return folder

    def summary(self, folder: Path, dice: dict[str, dict[str, float]]) -> Path:
        """The summary.json of a fold, by Dice of case and label."""
        entries = [
            {
                "prediction_file": f"/elsewhere/validation/{case}.nii.gz",
                "reference_file": f"/elsewhere/gt_segmentations/{case}.nii.gz",
                "metrics": {key: {"Dice": value, "TP": 3} for key, value in of_case.items()},
            }
            for case, of_case in dice.items()
        ]
        keys = dict.fromkeys(key for of_case in dice.values() for key in of_case)
        mean = {key: {"Dice": np.mean([of_case[key] for of_case in dice.values()])} for key in keys}
        file = folder / "validation" / "summary.json"
        file.write_text(json.dumps({"metric_per_case": entries, "mean": mean}))
        return file

    def pretraining(self, epochs: tuple[int, ...] = (1, 2), offset: float = 0.0, **options: Any) -> Path:
        """A pre-training with panels of one crop; its networks see noise that fades with the epochs, plus `offset`."""
        terms = {f"{phase}_reconstruction_vit": [1.0, 0.5] for phase in ("train", "val")}
        folder = self.fold("TopoMAEPretrainer", logging=terms, **options)
        (folder / "progress").mkdir()
        for epoch in epochs:
            write_panels(folder / "progress" / f"epoch_{epoch:04d}.npz", [panel(CASES[2], epoch, offset)])
        (folder / "validation").mkdir()
        metrics = {name: {"masked_mse": 0.5, "psnr": float("nan")} for name in ("vit", "partner")}
        summary = {
            "mean": metrics,
            "metric_per_case": [{"case": case, "crops": 1, "metrics": metrics} for case in CASES],
        }
        (folder / "validation" / "summary.json").write_text(json.dumps(summary))
        return folder


def reference(number: int) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:9, 4:10, 3:11] = 1
    labels[5:7, 5 + number : 8 + number, 5:8] = 2
    return labels


def dice(a: np.ndarray, b: np.ndarray, label: int) -> float:
    return float(2 * np.sum((a == label) & (b == label)) / (np.sum(a == label) + np.sum(b == label)))


def write_image(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    sitk.WriteImage(image, str(file))


def panel(case: str, epoch: int, offset: float = 0.0) -> Panel:
    draw = np.random.default_rng(epoch)
    image = np.add.outer(np.arange(8), np.arange(10))[..., None] * np.ones(6)
    image = (image * 15).astype(np.uint8)
    mask = np.zeros(image.shape, bool)
    mask[:, 5:] = True
    points = nine_points(crop_at((2, 3, 4)), image.shape, (20, 20, 20)).numpy()
    made = np.where(mask, np.clip(image + draw.normal(size=image.shape) * 20 / epoch + offset, 0, 255), image)
    return Panel(
        case,
        epoch,
        image,
        mask,
        {"vit": made.astype(np.uint8), "partner": image},
        {"vit": 1 / epoch, "partner": 0.0},
        points,
        np.array(SPACING, np.float32),
        np.array([-1.0, 2.0], np.float32),
    )


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    return empty_results(tmp_path, monkeypatch)


def empty_results(base: Path, patch: pytest.MonkeyPatch) -> Results:
    for name in ("raw", "preprocessed", "results"):
        patch.setenv(f"nnUNet_{name}", str(base / name))
    return Results(base)


@pytest.fixture(scope="session")
def page_of_all_kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about a pre-training, a fine-tuning and nnU-Net's own trainer."""
    base = tmp_path_factory.mktemp("all kinds")
    with pytest.MonkeyPatch.context() as patch:
        results = empty_results(base, patch)
        results.pretraining(epochs=(1, 2))
        results.segmentation("TopoMAEFinetuner", shift=1)
        results.segmentation("nnUNetTrainer", shift=2)
        return write_report([results.dataset], base / "a report [1].html", 5)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install .[test]")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium with its chromedriver here (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
        *("disable-background-networking", "disable-component-update", "disable-dev-shm-usage"),
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield chrome
    chrome.quit()
