from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.fx import GraphModule

from nnunet_topomae.networks import CoPretrainingNetwork, HybridSegmentationNetwork
from nnunet_topomae.networks.checkpointing import with_checkpoints
from nnunet_topomae.networks.transformer import StochasticDepth
from nnunet_topomae.pretext.masking import draw_masks


@pytest.fixture(params=["pre-training", "fine-tuning"])
def network_and_inputs(request, beside_each) -> tuple[torch.nn.Module, tuple]:
    """With stochastic depth and dropout, which must fall as they fell."""
    torch.manual_seed(0)
    blueprint = beside_each._replace(vit=replace(beside_each.vit, drop_path=0.2))
    image = torch.randn(2, 1, *blueprint.geometry.patch_size)
    if request.param == "fine-tuning":
        return HybridSegmentationNetwork(1, 3, *blueprint, deep_supervision=False), (image,)
    masks = draw_masks(2, 2, blueprint.geometry.num_tokens, 0.75, torch.Generator().manual_seed(0))
    return CoPretrainingNetwork(1, *blueprint), (image, masks)


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


def test_gradients_and_statistics_are_the_same_in_less_memory(network_and_inputs, beside_each):
    network, inputs = network_and_inputs
    initial = {name: value.clone() for name, value in network.state_dict().items()}
    gradients, statistics, size = trained_once(network, inputs)
    network.load_state_dict(initial)
    again, statistics_again, size_again = trained_once(with_checkpoints(network, beside_each.partner), inputs)
    assert network.state_dict().keys() == initial.keys()
    for ours, theirs in zip(again, gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert bool(statistics) == (beside_each.partner.title == "UNETR++")
    for name in statistics:
        assert torch.equal(statistics_again[name], statistics[name]), name
    assert size_again < 0.7 * size


def compiled_graphs(network: torch.nn.Module, inputs: tuple) -> tuple[int, int]:
    """How many graphs a step compiles, and operations in them."""
    graphs = []

    def backend(graph: GraphModule, _: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    trained_once(torch.compile(network, backend=backend), inputs)
    parts = [part for graph in graphs for part in graph.modules() if isinstance(part, GraphModule)]
    return len(graphs), sum(node.op == "call_function" for part in parts for node in part.graph.nodes)


@pytest.mark.parametrize("beside_each", ["PlainConvUNet"], indirect=True)
def test_beside_instance_norm_all_is_compiled_as_without(network_and_inputs, beside_each):
    """Checkpoints break no graph. BatchNorm's, which count a batch once, are left out of graphs."""
    network, inputs = network_and_inputs
    graphs, operations = compiled_graphs(network, inputs)
    graphs_again, operations_again = compiled_graphs(with_checkpoints(network, beside_each.partner), inputs)
    assert graphs_again == graphs
    assert operations <= operations_again < 2 * operations  # the checkpoints themselves are operations


@pytest.mark.parametrize("beside_each", ["PlainConvUNet"], indirect=True)
def test_compiled_gradients_are_the_same(network_and_inputs, beside_each):
    network, inputs = network_and_inputs
    for block in network.modules():
        if isinstance(block, StochasticDepth):
            block.probability = 0.0  # the compiler draws in another order
    gradients, *_ = trained_once(network, inputs)
    torch._dynamo.reset()
    again, *_ = trained_once(torch.compile(with_checkpoints(network, beside_each.partner), backend="eager"), inputs)
    torch.testing.assert_close(again, gradients)


def test_evaluation_is_not_touched(blueprint):
    network = HybridSegmentationNetwork(1, 3, *blueprint, deep_supervision=False).eval()
    image = torch.randn(1, 1, *blueprint.geometry.patch_size)
    expected = network(image)
    assert torch.equal(with_checkpoints(network, blueprint.partner)(image), expected)
