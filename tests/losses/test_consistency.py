import torch

from nnunet_topomae.losses.consistency import pull_of_the_better


def test_agreement_costs_nothing_and_in_each_crop_the_worse_network_is_pulled():
    target = torch.rand(2, 9, 3)
    off = torch.tensor([0.1, 0.5]).reshape(2, 1, 1)  # the first network is better in crop 0, the second in crop 1
    a, b = (target + off).requires_grad_(), (target - off.flip(0)).requires_grad_()
    assert pull_of_the_better(a, a.detach(), target).item() == 0
    values = [pull_of_the_better(a, b.detach(), target), pull_of_the_better(b, a.detach(), target)]
    assert values[0].item() == values[1].item() > 0
    sum(values).backward()
    assert [row.any().item() for row in a.grad] == [False, True]
    assert [row.any().item() for row in b.grad] == [True, False]
