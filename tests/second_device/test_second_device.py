"""What the second device is worth: it computes as the CPU does, finds what was left behind, and knows who waits."""

import pytest
import torch


def test_it_computes_as_the_cpu_does(second_device):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.InstanceNorm3d(4), torch.nn.Flatten())
    x = torch.randn(2, 1, 4, 5, 6)
    theirs = network(x).square().mean()
    theirs.backward()
    expected = network[0].weight.grad.clone()
    network.zero_grad()
    ours = network.to("second")(x.to("second")).square().mean()
    ours.backward()
    torch.testing.assert_close(ours.cpu(), theirs)
    torch.testing.assert_close(network[0].weight.grad.cpu(), expected)


def test_a_tensor_left_on_the_host_is_found(second_device):
    x = torch.ones(2, device="second")
    assert (x + torch.tensor(1.0)).tolist() == [2, 2]  # numbers may be
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(2)


@pytest.mark.parametrize(
    "use, waits",
    [
        (lambda x: x.sum() * 2, []),
        (lambda x: x.to("cpu", non_blocking=True), []),
        (lambda x: x[x > 1], ["aten::nonzero"]),
        (lambda x: x.index_put_((x > 0,), x), ["aten::_index_put_impl_"]),
        (lambda x: x.nonzero(), ["aten::nonzero"]),
        (lambda x: x.sum().item(), ["item"]),
        (lambda x: bool((x > 0).all()), ["item"]),
        (lambda x: x.cpu(), ["copy to the host"]),
        (lambda x: x + torch.ones(3).to(x.device), ["copy to the device"]),
        (lambda x: torch.Stream(x.device).synchronize(), ["stream"]),
    ],
)
def test_it_counts_where_the_host_waits(second_device, use, waits):
    x = torch.ones(3, device="second")
    second_device.waits()
    use(x)
    assert second_device.waits() == waits
    if waits:
        with second_device.without_waits(), pytest.raises(RuntimeError, match=f"would wait for the device: {waits[0]}"):
            use(x)
