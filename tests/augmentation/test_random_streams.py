import numpy as np
import pytest
import torch

from nnunet_topomae.augmentation.random_streams import own_random_numbers

CPU = torch.device("cpu")


def draw() -> tuple[float, float]:
    return np.random.uniform(), torch.rand(1).item()


def test_what_is_drawn_follows_from_the_origin_alone():
    def within(*origin: int) -> tuple[float, float]:
        with own_random_numbers(origin, CPU):
            return draw()

    first = within(1, 2, 3, 0)
    draw()
    assert within(1, 2, 3, 0) == first
    for other in ((2, 2, 3, 0), (1, 3, 3, 0), (1, 2, 4, 0), (1, 2, 3, 1)):  # seed, epoch, step, rank
        assert not set(within(*other)) & set(first)


def test_what_is_drawn_after_is_not_disturbed():
    np.random.seed(0)
    torch.manual_seed(0)
    expected = draw(), draw()
    np.random.seed(0)
    torch.manual_seed(0)
    before = draw()
    with pytest.raises(KeyboardInterrupt), own_random_numbers((7, 0), CPU):
        draw()
        raise KeyboardInterrupt
    assert (before, draw()) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_neither_are_the_numbers_of_a_gpu():
    torch.cuda.manual_seed(0)
    expected = torch.rand(2, device="cuda")
    torch.cuda.manual_seed(0)
    with own_random_numbers((7, 0), torch.device("cuda")):
        torch.rand(5, device="cuda")
    assert torch.equal(torch.rand(2, device="cuda"), expected)
