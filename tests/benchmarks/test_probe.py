import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nnunet_topomae.networks.tokens import patchify
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import probe  # noqa: E402


class MeansOfTokens(nn.Module):
    """An encoder whose features are the means of the image's channels over each token."""

    def __init__(self, token_size) -> None:
        super().__init__()
        self.token_size = token_size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return patchify(images, self.token_size).unflatten(-1, (images.shape[1], -1)).mean(dim=-1)


class Noise(nn.Module):
    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [torch.randn(len(images), 5, 4, 4, 4, generator=torch.Generator().manual_seed(0))]


@pytest.fixture
def trainer(workshop) -> TopoMAEPretrainer:
    trainer = workshop.build(TopoMAEPretrainer)
    trainer.initialize()
    return trainer


def test_features_that_are_the_answer_explain_it_all_and_noise_explains_nothing(trainer):
    network = trainer.plain_network
    network.vit.encoder, network.partner.encoder = MeansOfTokens(trainer.geometry.token_size), Noise()
    labels = (torch.rand(6, 2, *trainer.configuration_manager.patch_size) < torch.rand(6, 2, 1, 1, 1)).float()
    shares = probe._rows(F.avg_pool3d(labels, trainer.geometry.token_size))
    crops = labels, shares + np.random.default_rng(0).normal(0, 1e-3, shares.shape)
    scores = probe.probe(network, crops, crops)
    assert scores["ViT"] == pytest.approx(1, abs=0.01) and scores["both"] == pytest.approx(1, abs=0.01)
    assert scores["partner"] < 0.2


def test_crops_lie_around_the_foreground_and_count_its_voxels(trainer):
    cases = trainer.do_split()[1]
    images, shares = probe.crops(trainer, cases, count=3)
    assert images.shape == (3, 1, *trainer.configuration_manager.patch_size)
    num_classes = len(trainer.label_manager.foreground_labels)
    assert shares.shape == (3 * trainer.geometry.num_tokens, num_classes)
    assert 0 <= shares.min() and shares.max() <= 1
    assert (shares.reshape(3, -1).sum(axis=1) > 0).all()
