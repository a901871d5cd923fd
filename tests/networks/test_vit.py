from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from nnunet_topomae.networks import PRESETS, Geometry
from nnunet_topomae.networks.tokens import patchify
from nnunet_topomae.networks.transformer import StochasticDepth
from nnunet_topomae.networks.vit import MAEDecoder, TokenEmbedding, ViTEncoder, sincos_position_embedding

GRID, TOKEN = (2, 3, 4), (4, 2, 3)
PATCH = (8, 6, 12)


def encoder(**kwargs):
    return ViTEncoder(2, PATCH, TOKEN, embed_dim=24, depth=2, num_heads=3, **kwargs).eval()


def test_token_embedding_is_the_strided_convolution():
    embedding = TokenEmbedding(2, TOKEN, 24)
    image = torch.randn(2, 2, *PATCH)

    convolved = F.conv3d(image, embedding.weight, embedding.bias, stride=TOKEN)  # [B, 24, 2, 3, 4]
    torch.testing.assert_close(embedding(patchify(image, TOKEN)), convolved.flatten(2).transpose(1, 2))


def test_position_embedding_is_sine_and_cosine_of_each_axis_in_voxel_order():
    embedding = sincos_position_embedding(GRID, 26)  # 26 = 3 axes × 2 × 4 bands + 2 unused
    waves = torch.zeros(24, 24)
    for i in range(2):
        for j in range(3):
            for k in range(4):
                number = (i * 3 + j) * 4 + k
                for axis, position in enumerate((i, j, k)):
                    for band in range(4):
                        angle = torch.tensor(position / 10000 ** (band / 4))
                        waves[number, axis * 8 + band] = angle.sin()
                        waves[number, axis * 8 + 4 + band] = angle.cos()
    waves -= waves.mean(dim=0)
    torch.testing.assert_close(embedding[:, :24], waves / waves.std())
    assert not embedding[:, 24:].any()


@pytest.mark.parametrize("grid", [(4, 4, 4), (2, 8, 8), (1, 1, 2), (12, 12, 12)])
def test_position_embedding_varies_over_tokens_as_much_on_any_grid(grid):
    embedding = sincos_position_embedding(grid, 96)
    assert embedding.std().item() == pytest.approx(1, rel=1e-4)
    assert embedding.mean(dim=0).abs().max() < 1e-5


def test_encoder_without_masked_tokens_sees_all_in_order():
    network, image = encoder(), torch.randn(2, 2, *PATCH)
    every = torch.arange(24).expand(2, -1)

    torch.testing.assert_close(network(image, every), network(image))


def test_encoder_treats_tokens_as_a_set():
    network, image = encoder(), torch.randn(2, 2, *PATCH)
    ids = torch.tensor([[3, 20, 7], [1, 0, 23]])

    torch.testing.assert_close(network(image, ids)[:, [2, 0, 1]], network(image, ids[:, [2, 0, 1]]))


def test_encoder_takes_its_patch_size_alone():
    with pytest.raises(ValueError, match=r"built for patches of \(8, 6, 12\)"):
        encoder()(torch.zeros(1, 2, 8, 6, 6))


def test_stochastic_depth_rises_over_the_blocks():
    network = encoder(drop_path=0.2)

    rates = [module.probability for module in network.modules() if isinstance(module, StochasticDepth)]
    assert max(rates) == pytest.approx(0.2) and set(rates) <= {0, max(rates)}


def test_decoder_puts_each_token_in_its_place():
    """Without blocks a token answers for itself; asked for are the visible ones and one that is hidden."""
    config = replace(PRESETS["tiny"], embed_dim=24, decoder_dim=12, decoder_depth=0)
    decoder = MAEDecoder(2, Geometry(PATCH, TOKEN), config)
    features = torch.randn(1, 3, 24)
    changed = features.clone()
    changed[0, 1] += torch.randn(24)
    ids, asked = torch.tensor([[2, 17, 23]]), torch.tensor([[17, 5, 2]])

    difference = (decoder(changed, ids, asked) - decoder(features, ids, asked)).abs()
    assert difference.sum(dim=-1)[0].nonzero().tolist() == [[0]]
