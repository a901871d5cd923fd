from dataclasses import replace

import pytest

from nnunet_topomae.networks import Geometry, ViTConfig
from nnunet_topomae.networks.geometry import Size3D, Strides, cumulative
from nnunet_topomae.networks.partners import LearningRates
from nnunet_topomae.networks.partners.plan import PlanPartner
from nnunet_topomae.networks.partners.unetrpp import Size, UNETRPPPartner
from nnunet_topomae.planning.blueprint import Blueprint

PATCH, STRIDES = (8, 24, 32), ((1, 2, 1), (2, 2, 2), (2, 2, 2), (1, 3, 2))


@pytest.fixture
def blueprint() -> Blueprint:
    """ViT and UNETR++ as narrow as they get, so that a test takes milliseconds.

    Three different sides everywhere: 8×24×32 voxels, tokens of 4×8×4, a token grid of 2×3×8.
    """
    vit = ViTConfig(
        embed_dim=24,
        depth=2,
        num_heads=3,
        decoder_dim=12,
        decoder_depth=1,
        decoder_num_heads=2,
        pretrain_lr=1e-3,
        finetune_lr=1e-3,
        views=1,
        steps=1,
    )
    size = Size(
        features_per_stage=(4, 8, 8, 16),
        n_blocks_per_stage=1,
        num_heads=2,
        projection_sizes=(8, 8, 8, 4),
        dropout=0.1,
        learning_rates=LearningRates(1e-3, 1e-3),
    )
    return Blueprint(Geometry(PATCH, (4, 8, 4)), vit, UNETRPPPartner(PATCH, STRIDES, size))


@pytest.fixture
def elsewhere(blueprint):
    """The same networks on another patch, or with other strides."""

    def elsewhere(patch_size: Size3D, strides: Strides = STRIDES) -> Blueprint:
        geometry = Geometry(patch_size, cumulative(strides)[2])
        partner = replace(blueprint.partner, patch_size=patch_size, strides=strides)
        return blueprint._replace(geometry=geometry, partner=partner)

    return elsewhere


@pytest.fixture(params=["UNETR++", "PlainConvUNet", "ResidualEncoderUNet"])
def beside_each(request, blueprint, planned_network) -> Blueprint:
    """The same ViT beside each kind of partner."""
    if request.param == "UNETR++":
        return blueprint
    network = planned_network(request.param, [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]])
    return blueprint._replace(partner=PlanPartner.of({"patch_size": PATCH, "architecture": network}, "tiny"))
