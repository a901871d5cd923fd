import torch

from nnunet_topomae.losses.consistency import point_consistency, reconstruction_consistency


def test_agreement_costs_nothing_and_both_sides_are_pulled():
    a, b = torch.rand(2, 9, 3, requires_grad=True), torch.rand(2, 9, 3, requires_grad=True)
    assert point_consistency(a, a).item() == 0
    point_consistency(a, b).backward()
    assert torch.equal(a.grad, -b.grad) and a.grad.abs().sum() > 0


def test_visible_voxels_may_differ():
    a, b = torch.zeros(1, 1, 2, 2, 2), torch.ones(1, 1, 2, 2, 2)
    mask = torch.zeros(1, 1, 2, 2, 2, dtype=torch.bool)
    mask[0, 0, 0, 0, 0] = True
    b[0, 0, 0, 0, 0] = 0
    assert reconstruction_consistency(a, b, mask).item() == 0
