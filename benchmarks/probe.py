"""Do pre-trained features tell labels that pre-training has not read? A linear probe, beside random weights.

    python benchmarks/probe.py DATASET CONFIGURATION FOLD [-p PLANS] [--checkpoints FILE ...] [--device cpu|cuda]

Of each token the share of each foreground class in its voxels is regressed on its features (ridge, its strength by
leave-one-out), on crops around the foreground of every other validation case; R² is that of the cases between, mean
over classes. Features are those of the ViT, those of the partner's encoder whose grid is nearest to the tokens', or
both. Without --checkpoints the final one of TopoMAEPretrainer in nnUNet_results is taken.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import add_fold, pretrainer
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nnunet_topomae.networks.copretrain import CoPretrainingNetwork
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer
from nnunet_topomae.visualization.tables import markdown_table

SOURCES = {"ViT": ("vit",), "partner": ("partner",), "both": ("vit", "partner")}
STRENGTHS = np.logspace(0, 5, 11)

Crops = tuple[torch.Tensor, np.ndarray]


def crops(trainer: TopoMAEPretrainer, cases: Sequence[str], count: int) -> Crops:
    """Images [B, C, D, H, W] on the device, and the share of each class in each token [B·N, K]."""
    patch = trainer.configuration_manager.patch_size
    loader = nnUNetDataLoader(
        trainer.dataset_of(cases), count, patch, patch, trainer.label_manager, oversample_foreground_percent=1.0
    )
    batch = loader.generate_train_batch()
    classes = torch.tensor(trainer.label_manager.foreground_labels).reshape(-1, 1, 1, 1)
    shares = F.adaptive_avg_pool3d((batch["target"] == classes).float(), trainer.geometry.token_grid)
    return batch["data"].to(trainer.device), _rows(shares)


@torch.no_grad()
def features(network: CoPretrainingNetwork, images: torch.Tensor) -> dict[str, np.ndarray]:
    """Of each encoder, [B·N, channels]."""
    grid = network.geometry.token_grid
    stages = network.partner.encoder(images)
    nearest = min(stages, key=lambda stage: abs(math.log(stage[0, 0].numel() / math.prod(grid))))
    tokens = network.vit.encoder(images).flatten(0, 1)
    return {"vit": tokens.float().cpu().numpy(), "partner": _rows(F.adaptive_avg_pool3d(nearest.float(), grid))}


def _rows(grid: torch.Tensor) -> np.ndarray:
    """[B, C, *grid] to [B·N, C]."""
    return grid.flatten(2).transpose(1, 2).flatten(0, 1).cpu().numpy()


def probe(network: CoPretrainingNetwork, fit: Crops, test: Crops) -> dict[str, float]:
    """R² on the crops `test` of what was fitted on others, by the names of `SOURCES`."""
    (images, shares), (test_images, test_shares) = fit, test
    known, new = features(network.eval(), images), features(network.eval(), test_images)
    scores = {}
    for source, branches in SOURCES.items():
        ridge = make_pipeline(StandardScaler(), RidgeCV(STRENGTHS))
        ridge.fit(np.hstack([known[branch] for branch in branches]), shares)
        scores[source] = ridge.score(np.hstack([new[branch] for branch in branches]), test_shares)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_fold(parser)
    parser.add_argument("--checkpoints", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--crops", type=int, default=60, help="to fit on, and to test on; default: %(default)s")
    options = parser.parse_args()

    trainer = pretrainer(options)
    files = options.checkpoints or [Path(trainer.output_folder, "checkpoint_final.pth")]
    for file in files:
        if not file.is_file():
            parser.error(f"{file} does not exist: pre-train first, or name another by --checkpoints")
    torch.manual_seed(0)
    np.random.seed(0)
    trainer.initialize()
    cases = sorted(trainer.do_split()[1])
    fit, test = (crops(trainer, part, options.crops) for part in (cases[0::2], cases[1::2]))
    scores = {"random weights": probe(trainer.plain_network, fit, test)}
    for file in files:
        trainer.load_checkpoint(str(file))
        scores[str(file)] = probe(trainer.plain_network, fit, test)
    rows = [[name, *(f"{score:.3f}" for score in of_sources.values())] for name, of_sources in scores.items()]
    print(markdown_table(["R² of", *SOURCES], rows))


if __name__ == "__main__":
    main()
