import pytest

from nnunet_topomae.networks import Geometry, Preset
from nnunet_topomae.networks.presets import Rates


@pytest.fixture
def minimal() -> Preset:
    """A preset as narrow as it gets, so that a test takes milliseconds."""
    return Preset(
        vit_embed_dim=24,
        vit_depth=2,
        vit_num_heads=3,
        mae_embed_dim=12,
        mae_depth=1,
        mae_num_heads=2,
        features_per_stage=(4, 8, 8, 16),
        n_blocks_per_stage=1,
        epa_num_heads=2,
        projection_sizes=(8, 8, 8, 4),
        dropout=0.1,
        rates=Rates(1e-3, 1e-3, 1.0, 1.0),
        vit_views=1,
        vit_steps=1,
    )


@pytest.fixture
def geometry() -> Geometry:
    """Three different sides everywhere: 8×24×32 voxels, tokens of 4×8×4, a token grid of 2×3×8."""
    return Geometry((8, 24, 32), stem_stride=(1, 2, 1), stage_strides=((2, 2, 2), (2, 2, 2), (1, 3, 2)))
