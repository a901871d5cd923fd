import pytest
import torch

from nnunet_topomae.networks import PRESETS, CoPretrainingNetwork, HybridSegmentationNetwork, geometry_from_plan
from nnunet_topomae.networks.checkpointing import with_checkpoints
from nnunet_topomae.pretext.masking import draw_masks

GEOMETRY = geometry_from_plan((16, 16, 24), [[1, 1, 1], [2, 2, 2], [2, 2, 2]])
IMAGE = torch.randn(2, 1, *GEOMETRY.patch_size, generator=torch.Generator().manual_seed(0))


def pretraining() -> tuple[torch.nn.Module, tuple]:
    masks = draw_masks(2, 2, GEOMETRY.num_tokens, 0.75, torch.Generator().manual_seed(0))
    return CoPretrainingNetwork(1, GEOMETRY, PRESETS["small"], drop_path_rate=0.2), (IMAGE, masks)


def segmentation() -> tuple[torch.nn.Module, tuple]:
    network = HybridSegmentationNetwork(1, 3, GEOMETRY, PRESETS["small"], deep_supervision=False, drop_path_rate=0.2)
    return network, (IMAGE,)


def trained_once(network: torch.nn.Module, inputs: tuple) -> tuple[list[torch.Tensor], dict, int]:
    """Gradients, running statistics and the bytes that were kept for the backward pass."""
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)  # of dropout and stochastic depth
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(*inputs)
    output = output if isinstance(output, torch.Tensor) else torch.cat([part.flatten() for b in output for part in b])
    size = sum(kept.values())
    output.square().mean().backward()
    gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    statistics = {
        name: value.clone() for name, value in network.state_dict().items() if "running_" in name or "num_" in name
    }
    network.zero_grad()
    return gradients, statistics, size


@pytest.mark.parametrize("build", [pretraining, segmentation])
def test_gradients_and_statistics_are_the_same_in_less_memory(build):
    torch.manual_seed(0)
    network, inputs = build()
    initial = {name: value.clone() for name, value in network.state_dict().items()}
    gradients, statistics, size = trained_once(network, inputs)
    network.load_state_dict(initial)
    again, statistics_again, size_again = trained_once(with_checkpoints(network), inputs)
    assert network.state_dict().keys() == initial.keys()
    for ours, theirs in zip(again, gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert statistics and statistics.keys() == statistics_again.keys()
    for name in statistics:
        assert torch.equal(statistics_again[name], statistics[name]), name
    assert size_again < 0.7 * size


def test_evaluation_is_not_touched():
    network, inputs = segmentation()
    network.eval()
    expected = network(*inputs)
    assert torch.equal(with_checkpoints(network)(*inputs), expected)
