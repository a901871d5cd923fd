"""The topological loss, which threads compute on the host, of volumes on a second device."""

from threading import current_thread

import torch

from nnunet_topomae.topology import TopologicalLoss


def test_it_is_the_cpus_and_its_threads_alone_wait(second_device):
    volumes = torch.randn(2, 2, 1, 8, 6, 7, generator=torch.Generator().manual_seed(0))
    loss, results, threads = TopologicalLoss(max_side=6, rel_tol=1e-6), [], set()
    torch.second.set_device = lambda device: threads.add(current_thread().name.split("-")[0])
    for device in ("cpu", "second"):
        reconstruction, target = volumes.to(device)
        reconstruction.requires_grad_()
        second_device.waits()
        loss(reconstruction, None, loss.submit_diagrams(target)).backward()
        assert second_device.waits() == []
        results.append(reconstruction.grad.cpu())
    torch.testing.assert_close(*results)
    assert threads == {"topology"}


def test_a_target_that_is_not_finite_is_an_error(second_device):
    volume = torch.full((1, 1, 4, 4, 4), torch.nan, device="second")
    diagrams = TopologicalLoss().submit_diagrams(volume)  # without a wait
    assert "NaN or infinity in sample 0" in str(diagrams[0].exception())
