import torch

from nnunet_topomae.losses.consistency import PointConsistency, ReconstructionConsistency
from nnunet_topomae.losses.term import Target
from nnunet_topomae.networks.copretrain import BranchOutput


def point_consistency(a: torch.Tensor, b: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    unused = torch.empty(0)
    answers = [BranchOutput(unused, answer[:, None]) for answer in (a, b)]
    return PointConsistency.of_both(None, *answers, Target(unused, points, unused))


def reconstruction_consistency(
    a: torch.Tensor, b: torch.Tensor, image: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    unused = torch.empty(0)
    answers = [BranchOutput(answer[:, None], unused) for answer in (a, b)]
    return ReconstructionConsistency.of_both(None, *answers, Target(image, unused, mask[:, None]))


def test_agreement_costs_nothing_and_in_each_crop_the_worse_network_is_pulled():
    target = torch.rand(2, 9, 3)
    off = torch.tensor([0.1, 0.5]).reshape(2, 1, 1)  # the first network is better in crop 0, the second in crop 1
    a, b = (target + off).requires_grad_(), (target - off.flip(0)).requires_grad_()
    assert point_consistency(a, a, target).item() == 0
    point_consistency(a, b, target).backward()
    assert [row.any().item() for row in a.grad] == [False, True]
    assert [row.any().item() for row in b.grad] == [True, False]


def test_visible_voxels_may_differ_and_do_not_tell_who_is_better():
    image, mask = torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2, dtype=torch.bool)
    mask[0, 0, 0, 0, 0] = True
    a, b = image.clone(), image + 9
    b[0, 0, 0, 0, 0] = 0
    assert reconstruction_consistency(a, b, image, mask).item() == 0

    a[0, 0, 0, 0, 0] = 1  # right where it was visible, wrong where it was asked
    a.requires_grad_()
    reconstruction_consistency(a, b, image, mask).backward()
    assert a.grad[0, 0, 0, 0, 0] > 0
