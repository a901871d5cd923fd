"""Against PyTorch's own tools, which take any program and longer."""

from __future__ import annotations

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from nnunet_topomae.networks import CoPretrainingNetwork, HybridSegmentationNetwork
from nnunet_topomae.networks import dry_run as module
from nnunet_topomae.networks.dry_run import dry_run

aten = torch.ops.aten

SIZE = (8, 24, 32)


def kept_bytes(network: nn.Module, forward, samples: int, dtype: torch.dtype) -> int:
    """Of real tensors, or of fake ones."""
    own = {tensor.untyped_storage()._cdata for tensor in [*network.parameters(), *network.buffers()]}
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        forward(network, torch.zeros(samples, 1, *SIZE))
    return sum(storage.nbytes() for storage in kept.values())


def pretrain(network: CoPretrainingNetwork, image: torch.Tensor) -> None:
    network.vit(image, torch.arange(12).expand(len(image), 1, -1))
    network.partner(image)


def plain_unet() -> PlainConvUNet:
    """As nnU-Net plans it, in small: instance norm, concatenation."""
    sizes = {"features_per_stage": (4, 8, 16), "kernel_sizes": 3, "strides": (1, 2, (1, 2, 2))}
    blocks = {"n_conv_per_stage": 2, "n_conv_per_stage_decoder": 1, "conv_op": nn.Conv3d, "conv_bias": True}
    norm = {"norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"affine": True}}
    activation = {"nonlin": nn.LeakyReLU, "nonlin_kwargs": {"inplace": True}}
    return PlainConvUNet(1, n_stages=3, num_classes=3, deep_supervision=True, **sizes, **blocks, **norm, **activation)


@pytest.fixture(params=["pre-training", "bottleneck", "stages", "cross_attention", "nnU-Net"])
def phase(request, minimal, geometry):
    """How to build a network, and its forward pass."""
    if request.param == "nnU-Net":
        return plain_unet, lambda network, image: network(image)
    if request.param == "pre-training":
        return lambda: CoPretrainingNetwork(1, geometry, minimal), pretrain
    return (
        lambda: HybridSegmentationNetwork(1, 3, geometry, minimal, fusion=request.param),
        lambda network, image: network(image),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_memory_is_what_fake_tensors_keep(phase, dtype):
    build, forward = phase
    run = dry_run(build, forward, (1, *SIZE), dtype)
    with FakeTensorMode():
        network = build()
        two, three = (kept_bytes(network, forward, samples, dtype) for samples in (2, 3))
    # What batch norm keeps, a number a channel, is made of the samples, but is not more for more of them.
    assert run.bytes_per_sample == pytest.approx(three - two, rel=2e-3)
    assert 2 * run.bytes_per_sample + run.bytes_per_batch == pytest.approx(two, rel=1e-3)


def test_memory_is_what_real_tensors_keep(phase):
    build, forward = phase
    run = dry_run(build, forward, (1, *SIZE), torch.float32)
    network = build()
    assert 4 * run.bytes_per_sample == pytest.approx(
        kept_bytes(network, forward, 6, torch.float32) - kept_bytes(network, forward, 2, torch.float32), rel=2e-3
    )


def test_multiply_adds_are_those_of_pytorchs_counter(phase):
    build, forward = phase
    network = build()
    with FlopCounterMode(display=False) as counter:
        forward(network, torch.zeros(1, 1, *SIZE))
    assert dry_run(build, forward, (1, *SIZE), torch.float16).multiply_adds == counter.get_total_flops() // 2


def test_shapes_are_those_of_real_tensors(phase, monkeypatch):
    build, forward = phase

    def filled(value):
        if isinstance(value, torch.Tensor):
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).zero_()
        return [filled(item) for item in value] if isinstance(value, list) else value

    def checked(operation, shape):
        def check(*args, **kwargs):
            outline, real = shape(*args, **kwargs), operation(*map(filled, args), **kwargs)
            for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (outline, real)), strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype), operation
                if operation is not aten.convolution.default:  # whose order in memory each backend chooses
                    assert a.stride() == b.stride(), operation
            return outline

        return check

    checks = {operation: checked(operation, shape) for operation, shape in module.SHAPES.items()}
    monkeypatch.setattr(module, "SHAPES", checks)
    dry_run(build, forward, (1, *SIZE), torch.float32)
