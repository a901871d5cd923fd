"""Published figures: Shaker et al., IEEE TMI 2024, tables 1, 3, 5, and the authors' training logs."""

import math

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from nnunet_topomae.networks import UNETRPP
from nnunet_topomae.networks.unetrpp import EfficientPairedAttention, TokenProjection

SMALL = {"features_per_stage": (8, 8, 16, 16), "n_blocks_per_stage": (1,) * 4, "n_blocks_per_stage_decoder": (1,) * 3}


def norm_operations(network: nn.Module) -> list[int]:
    """Per call of a normalisation layer, the operations that fvcore counts: 5 an element, 4 without weights."""
    calls = []

    def count(module, inputs, output):
        calls.append(output.numel() * (5 if getattr(module, "weight", None) is not None else 4))

    for module in network.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm3d | nn.InstanceNorm3d):
            module.register_forward_hook(count)
    return calls


def test_synapse_multiply_adds_are_the_published_ones():
    """The authors print fvcore's count of the training network: multiply-adds and normalisations, 13 organs."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        network = UNETRPP(1, 14, (64, 128, 128), (2, 4, 4))
        norms = norm_operations(network)
        network(torch.zeros(1, 1, 64, 128, 128))

    assert counter.get_total_flops() / 2 + sum(norms) == pytest.approx(47.98e9, rel=1e-3)


@pytest.mark.parametrize("branch_fusion", ["concat", "sum"])
@pytest.mark.parametrize("shared_projection", [True, False])
def test_paired_attention_equals_its_formula_token_by_token(branch_fusion, shared_projection):
    torch.manual_seed(0)
    dim, heads, grid, projected = 8, 2, (2, 3, 2), 5
    attention = EfficientPairedAttention(dim, grid, projected, heads, shared_projection, branch_fusion).eval()
    with torch.no_grad():
        for parameter in attention.parameters():  # away from the start, where attention is all but uniform
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randn(2, math.prod(grid), dim)

    expected = torch.stack([naive_paired_attention(attention, tokens) for tokens in x])
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-4)


def naive_paired_attention(attention: EfficientPairedAttention, x: torch.Tensor) -> torch.Tensor:
    """The docstring's formula for one volume [N, C], written with loops over heads and tokens."""
    num_tokens, dim = x.shape
    d = dim // attention.num_heads
    q, k, v_channel, v_spatial = (attention.qkvv.weight[i * dim : (i + 1) * dim] @ x.T for i in range(4))  # [C, N]
    key_map, value_map = attention.key_projection, attention.value_projection or attention.key_projection
    channel, spatial = torch.zeros(num_tokens, dim), torch.zeros(num_tokens, dim)
    for head in range(attention.num_heads):
        rows = slice(head * d, (head + 1) * d)
        keys = project(key_map, k[rows])  # [d, P]
        values = project(value_map, v_spatial[rows])
        q_unit = torch.stack([row / row.norm() for row in q[rows]])
        k_unit = torch.stack([row / row.norm() for row in k[rows]])
        for a in range(d):
            weights = (attention.temperature_channel[head] * (k_unit @ q_unit[a])).softmax(0)
            channel[:, head * d + a] = weights @ v_channel[rows]
        for n in range(num_tokens):
            weights = (attention.temperature_spatial[head] * (keys.T @ q_unit[:, n])).softmax(0)
            spatial[n, rows] = values @ weights
    if attention.out_spatial is None:
        return channel + spatial
    return torch.cat([attention.out_spatial(spatial), attention.out_channel(channel)], dim=1)


def project(projection: TokenProjection, rows: torch.Tensor) -> torch.Tensor:
    return (
        torch.stack([torch.stack([(w.flatten() * row).sum() for w in projection.weight]) for row in rows])
        + projection.bias
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close(dtype):
    torch.manual_seed(0)
    attention = EfficientPairedAttention(32, (16, 16, 16), 64).eval()
    x = torch.randn(2, 4096, 32)
    with torch.autocast("cpu", dtype):
        half = attention(x)

    assert half.dtype == dtype
    expected = attention(x)
    assert (half - expected).abs().max() < 0.02 * expected.abs().max()


def test_attention_of_zeros_has_bounded_gradients():
    attention = EfficientPairedAttention(8, (4, 4, 4), 5, num_heads=2).eval()
    x = torch.zeros(1, 64, 8, requires_grad=True)
    with torch.autocast("cpu", torch.float16):
        attention(x).float().sum().backward()

    for gradient in [x.grad, *(p.grad for p in attention.parameters())]:
        assert gradient.abs().max() < 100


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_constant_image_gives_finite_outputs(dtype):
    network = UNETRPP(1, 2, (32, 32, 32), (2, 2, 2), ((2, 2, 2), (2, 2, 2), (1, 1, 1)), **SMALL)
    with torch.autocast("cpu", dtype):
        outputs = network(torch.zeros(2, 1, 32, 32, 32))

    assert all(output.isfinite().all() for output in outputs)


def test_heads_must_divide_channels():
    with pytest.raises(ValueError, match="6 channels do not divide into 4 attention heads"):
        EfficientPairedAttention(6, (2, 2, 2), 4)
