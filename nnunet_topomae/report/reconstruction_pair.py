"""Figure 1 of the paper: a crop and its reconstructions, pre-trained without and with the topological loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from matplotlib.figure import Figure
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.data.dataloading import CropPositionDataLoader
from nnunet_topomae.losses.topology import topological_loss
from nnunet_topomae.monitoring.reconstructions import PretrainingEvaluation, ReconstructedCrop
from nnunet_topomae.networks.copretrain import CoPretrainingNetwork
from nnunet_topomae.planning.blueprint import geometry_of
from nnunet_topomae.report.runs import NETWORKS
from nnunet_topomae.training.checkpoint import Checkpoint, Origin, read_checkpoint
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer
from nnunet_topomae.visualization.reconstruction import save_reconstruction_figure


@dataclass(frozen=True)
class Pretraining:
    """What a checkpoint of TopoMAEPretrainer makes of its dataset's crops."""

    file: Path
    config: TopoMAEConfig
    origin: Origin
    weights: dict[str, torch.Tensor]

    @classmethod
    def read(cls, path: Path) -> Pretraining:
        """From a checkpoint, or the fold folder that holds checkpoint_final.pth. Raises OSError or ValueError."""
        file = path / "checkpoint_final.pth" if path.is_dir() else path
        checkpoint: Checkpoint = read_checkpoint(file)
        if checkpoint.origin is None or not any(name.startswith("vit.decoder.") for name in checkpoint.weights):
            raise ValueError(f"{file} is no checkpoint of TopoMAEPretrainer")
        return cls(file, TopoMAEConfig.from_plans(checkpoint.origin.plans), checkpoint.origin, checkpoint.weights)

    @property
    def dataset_folder(self) -> Path:
        return Path(nnUNet_preprocessed, self.origin.plans["dataset_name"])

    def validation_cases(self) -> list[str]:
        """Of its fold; for fold all every case."""
        splits, fold = self.dataset_folder / "splits_final.json", self.origin.fold
        if fold == "all":
            return self._cases()
        if not splits.is_file():
            raise FileNotFoundError(f"no {splits}: set nnUNet_preprocessed to where the pre-training read its data")
        return load_json(str(splits))[int(fold)]["val"]

    def reconstruct(self, case: str) -> tuple[ReconstructedCrop, dict[str, float]]:
        """A crop of a case, always the same, and the topological distance of each network's reconstruction."""
        if case not in self._cases():
            raise ValueError(f"{self._images} has no case {case}")
        evaluation = self._evaluation(case)
        crop = evaluation.reconstruct(case, evaluation.seed(case))
        diagrams = evaluation.topology.diagrams(crop.image)
        distances = {
            name: (2 * evaluation.topology(volume, crop.image, diagrams)).sqrt().item()
            for name, volume in crop.completed.items()
        }
        return crop, distances

    @property
    def _images(self) -> str:
        return str(self.dataset_folder / self.origin.configuration.data_identifier)

    def _cases(self) -> list[str]:
        if not Path(self._images).is_dir():
            raise FileNotFoundError(f"no {self._images}: set nnUNet_preprocessed, or preprocess the dataset")
        return list(infer_dataset_class(self._images).get_identifiers(self._images))

    def _evaluation(self, case: str) -> PretrainingEvaluation:
        plans, configuration = PlansManager(self.origin.plans), self.origin.configuration
        dataset_json = load_json(str(self.dataset_folder / "dataset.json"))
        labels = plans.get_label_manager(dataset_json)
        network = TopoMAEPretrainer.build_network_architecture(plans, configuration, 1, 1)
        network.load_state_dict(self.weights)
        patch = configuration.patch_size
        dataset = infer_dataset_class(self._images)(self._images, [case])
        return PretrainingEvaluation(
            cast(CoPretrainingNetwork, network.eval()),
            geometry_of(configuration.configuration),
            topological_loss(self.config, normalisation="none"),
            CropPositionDataLoader(dataset, 1, patch, patch, labels, transforms=None),
            self.config.mask_ratio,
            1,
            configuration.spacing,
            torch.device("cpu"),
        )


def save_comparison_figure(path: Path, without: Path, with_topology: Path, case: str | None = None) -> str:
    """Draw the same crop of a validation case, and what both pre-trainings make of it under the same mask.

    Args:
        path: of the picture to write.
        without, with_topology: checkpoints, or fold folders of TopoMAEPretrainer; any two can be compared.
        case: the first that both validate on if None.

    Returns:
        The case.

    Raises:
        OSError: a checkpoint or the preprocessed dataset is not there.
        ValueError: no pre-training, no common case, or crops that differ.
    """
    if path.suffix.removeprefix(".") not in Figure().canvas.get_supported_filetypes():
        raise ValueError(f"{path} is no name of a picture: it must end in .png, .pdf or .svg")
    runs = [Pretraining.read(without), Pretraining.read(with_topology)]
    case = case or _common_case(runs)
    (crop, distances), (other, other_distances) = (run.reconstruct(case) for run in runs)
    if not torch.equal(crop.image, other.image) or not torch.equal(crop.voxel_mask, other.voxel_mask):
        raise ValueError(
            "the two see other crops: they must share dataset, patch, spacing, token size (preset) and mask_ratio"
        )
    columns = {}
    for network, name in NETWORKS.items():
        for run, volumes, distance in zip(
            runs, (crop.completed, other.completed), (distances, other_distances), strict=True
        ):
            title = (
                f"{name}, topology weight {run.config.weight_topology:g}\ntopological distance {distance[network]:.3g}"
            )
            columns[title] = volumes[network][0, 0].numpy()
    save_reconstruction_figure(
        path,
        crop.image[0, 0].numpy(),
        crop.voxel_mask[0, 0].numpy(),
        columns,
        title=case,
        spacing=tuple(runs[0].origin.configuration.spacing),
    )
    return case


def _common_case(runs: Sequence[Pretraining]) -> str:
    first, second = (run.validation_cases() for run in runs)
    common = [case for case in first if case in second]
    if not common:
        raise ValueError("no case is in the validation of both: name one with --case")
    return common[0]
