import pickle
import threading
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import ot
import pytest
import torch
from torch import Tensor

from nnunet_topomae.topology import (
    TopologicalLoss,
    betti_numbers,
    differentiable_points,
    persistence_diagrams,
    pool,
)
from nnunet_topomae.topology.loss import average_pool

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
EXACT = 1e-9


def volumes(*shape: int, seed: int = 0) -> Tensor:
    """Noise in [-2, 2] whose values are distinct and well apart: each in the middle half of an interval of its own."""
    rng = np.random.default_rng(seed)
    count = np.prod(shape)
    values = (rng.permutation(count) + rng.uniform(0.25, 0.75, count)) * (4 / count) - 2
    return torch.from_numpy(values.reshape(shape)).float()


def reference_w2(a: np.ndarray, b: np.ndarray) -> float:
    """W2² by POT, as optimal transport between the diagrams, each with the diagonal for every point of the other."""
    if not len(a) + len(b):
        return 0.0  # POT crashes
    cost = np.zeros((len(a) + len(b), len(b) + len(a)))
    cost[: len(a), : len(b)] = np.square(a[:, None] - b[None]).sum(-1)
    cost[: len(a), len(b) :] = np.square(a[:, 1] - a[:, 0])[:, None] / 2
    cost[len(a) :, : len(b)] = np.square(b[:, 1] - b[:, 0])[None] / 2
    uniform = np.ones(len(a) + len(b))
    return ot.emd2(uniform, uniform, cost, numItermax=1_000_000)


def reference_loss(x: Tensor, y: Tensor, dimensions: tuple[int, ...] = (0, 1, 2)) -> float:
    """The loss of two volumes [D, H, W], from GUDHI's diagrams and POT's transport."""
    ours, theirs = (persistence_diagrams(v.numpy(), "gudhi") for v in (x, y))
    total = sum(reference_w2(ours[k].finite().points, theirs[k].finite().points) for k in dimensions)
    if 0 in dimensions:
        total += float(x.min() - y.min()) ** 2
    return total / 2


@pytest.mark.parametrize("dimensions", [(0,), (1,), (2,), (0, 1, 2)])
def test_value_against_gudhi_and_pot(dimensions: tuple[int, ...]) -> None:
    x, y = volumes(1, 1, 6, 7, 5), volumes(1, 1, 6, 7, 5, seed=1)
    expected = reference_loss(x[0, 0], y[0, 0], dimensions)
    assert expected > 0
    assert TopologicalLoss(dimensions, rel_tol=EXACT)(x, y).item() == pytest.approx(expected, rel=1e-6)
    loose = TopologicalLoss(dimensions, rel_tol=0.05).submit(x, y).result()
    assert loose.bounds[0] <= expected * (1 + 1e-9) and expected <= loose.bounds[1] * (1 + 1e-9)
    assert expected * (1 - 1e-6) <= loose.loss.item() <= expected * 1.053


def test_mean_over_batch_and_channels_each_a_volume_of_its_own() -> None:
    x, y = volumes(2, 3, 5, 6, 4), volumes(2, 3, 5, 6, 4, seed=1)
    expected = np.mean([reference_loss(x[b, c], y[b, c]) for b in range(2) for c in range(3)])
    assert TopologicalLoss(rel_tol=EXACT)(x, y).item() == pytest.approx(expected, rel=1e-6)


def test_parts_of_the_dimensions_add_up() -> None:
    x, y = volumes(2, 1, 6, 6, 6), volumes(2, 1, 6, 6, 6, seed=1)
    terms = TopologicalLoss((2, 0, 1), rel_tol=EXACT).submit(x, y).result()
    assert sum(terms.per_dimension.values()) == pytest.approx(terms.loss.item(), rel=1e-6)
    for k in (0, 1, 2):
        assert terms.per_dimension[k] == pytest.approx(TopologicalLoss((k,), rel_tol=EXACT)(x, y).item(), rel=1e-6)


def test_zero_for_the_target_itself() -> None:
    x = volumes(1, 1, 6, 6, 6).requires_grad_()
    loss = TopologicalLoss()(x, x.detach())
    loss.backward()
    assert loss.item() == 0 and not x.grad.any()


def test_essential_class() -> None:
    # Constant volumes have no other class: the loss is (difference of minima)²/2.
    x, y = torch.full((1, 1, 4, 4, 4), 3.0, requires_grad=True), torch.full((1, 1, 4, 4, 4), 1.0)
    loss = TopologicalLoss()(x, y)
    loss.backward()
    assert loss.item() == 2
    assert x.grad.sum() == 2 and x.grad.count_nonzero() == 1
    assert TopologicalLoss((1, 2))(x, y).item() == 0


def test_normalisation_by_voxels() -> None:
    x, y = volumes(1, 2, 8, 6, 6), volumes(1, 2, 8, 6, 6, seed=1)
    plain = TopologicalLoss(max_side=4)(x, y).item()
    assert TopologicalLoss(max_side=4, normalisation="voxels")(x, y).item() == pytest.approx(plain / (4 * 3 * 3))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dimensions": (0,)},
        {"dimensions": (1,)},
        {"dimensions": (2,)},
        {"max_side": 3, "normalisation": "voxels"},
    ],
)
def test_gradient_against_finite_differences(settings: dict) -> None:
    x, y = volumes(1, 1, 6, 5, 6), volumes(1, 1, 6, 5, 6, seed=1)
    loss = TopologicalLoss(rel_tol=EXACT, **settings)
    gradient = gradient_of(loss, x, y)
    assert gradient.any()
    # While order and matching stay, the loss is quadratic, and central differences are exact up to rounding.
    step = 1e-4
    for index in np.ndindex(x.shape):
        shifted = [x.clone(), x.clone()]
        shifted[0][index] += step
        shifted[1][index] -= step
        up, down = (sum(loss.submit(s, y).result().per_dimension.values()) for s in shifted)
        width = (shifted[0][index] - shifted[1][index]).item()
        assert gradient[index].item() == pytest.approx((up - down) / width, rel=1e-3, abs=1e-4), index


def gradient_of(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    loss(x, y).backward()
    return x.grad


def test_gradient_scales_with_what_comes_after() -> None:
    x, y = volumes(1, 1, 5, 5, 5), volumes(1, 1, 5, 5, 5, seed=1)
    loss = TopologicalLoss()
    assert torch.allclose(gradient_of(lambda a, b: 3 * loss(2 * a, b), x, y), 6 * gradient_of(loss, 2 * x, y))


def test_a_second_derivative_is_refused() -> None:
    x = volumes(1, 1, 4, 4, 4).requires_grad_()
    loss = TopologicalLoss()(x, volumes(1, 1, 4, 4, 4, seed=1))
    (gradient,) = torch.autograd.grad(loss.square(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_twice(device: str) -> None:
    x, y = volumes(3, 2, 12, 10, 11).to(device), volumes(3, 2, 12, 10, 11, seed=1).to(device)
    loss = TopologicalLoss(max_side=6)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = ((loss(x, y), gradient_of(loss, x, y)) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@pytest.mark.parametrize("device", DEVICES)
def test_devices_agree_with_the_cpu(device: str) -> None:
    x, y = volumes(2, 2, 6, 7, 8), volumes(2, 2, 6, 7, 8, seed=1)
    loss = TopologicalLoss(max_side=4)
    value, gradient = loss(x.to(device), y.to(device)), gradient_of(loss, x.to(device), y.to(device))
    assert value.device.type == gradient.device.type == device
    assert value.item() == pytest.approx(loss(x, y).item(), rel=1e-5)
    assert torch.allclose(gradient.cpu(), gradient_of(loss, x, y), rtol=1e-4, atol=1e-6)
    assert loss(x.to(device), y).item() == pytest.approx(value.item())  # a target that stayed on the CPU


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_are_compared_in_float32(dtype: torch.dtype) -> None:
    x, y = volumes(1, 1, 6, 6, 6).to(dtype), volumes(1, 1, 6, 6, 6, seed=1)
    loss = TopologicalLoss(max_side=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(x, y)
        gradient = gradient_of(loss, x, y)
    assert value.dtype == torch.float32 and value == loss(x.float(), y)
    assert gradient.dtype == dtype
    assert torch.allclose(gradient, gradient_of(loss, x.float(), y).to(dtype))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_grad_scaler_skips_a_step_whose_reconstruction_is_not_finite(bad: float) -> None:
    weight = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    x, y = volumes(2, 1, 5, 5, 5), volumes(2, 1, 5, 5, 5, seed=1)
    x[1, 0, 2, 2, 2] = bad
    loss = TopologicalLoss(max_side=3)(weight * x, y)
    assert not loss.isfinite()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert weight.item() == 1 and scaler.get_scale() == 512


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 5)])
def test_a_loss_that_float32_cannot_hold_is_infinite_and_its_step_skipped(shape: tuple[int, ...]) -> None:
    weight = torch.ones(1, requires_grad=True)
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=2.0), torch.optim.SGD([weight], lr=0.1)
    loss = TopologicalLoss()(weight * torch.full((1, 1, *shape), 3e19), torch.zeros(1, 1, *shape))
    assert loss == torch.inf
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    assert weight.item() == 1


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_target_that_is_not_finite_is_an_error_that_says_where(bad: float) -> None:
    x, y = volumes(2, 3, 4, 4, 4), volumes(2, 3, 4, 4, 4, seed=1)
    y[1, 2, 0, 0, 0] = bad
    with pytest.raises(ValueError, match="target holds NaN or infinity in sample 1, channel 2"):
        TopologicalLoss()(x, y)
    with pytest.raises(ValueError, match="sample 1, channel 2"):
        TopologicalLoss().diagrams(y)


@pytest.mark.parametrize("target", ["given", "left out"])
@pytest.mark.parametrize("form", ["diagrams", "submit_diagrams", "pickled"])
def test_precomputed_diagrams_of_the_target_give_the_same(form: str, target: str) -> None:
    x, y = volumes(2, 2, 6, 7, 5), volumes(2, 2, 6, 7, 5, seed=1)
    loss = TopologicalLoss(max_side=4)
    diagrams = loss.submit_diagrams(y) if form == "submit_diagrams" else loss.diagrams(y)
    if form == "pickled":  # as by a data-loading worker
        diagrams = pickle.loads(pickle.dumps(diagrams))
    assert len(diagrams) == 4
    assert loss(x, y if target == "given" else None, diagrams) == loss(x, y)


@pytest.mark.parametrize("bad", [None, torch.nan])
@pytest.mark.parametrize("cut", [{}, {"max_side": 4}])
def test_submit_does_not_wait_for_a_reconstruction_that_is_on_its_way(
    monkeypatch: pytest.MonkeyPatch, cut: dict, bad: float | None
) -> None:
    """What takes the place of a GPU's copy arrives after `submit` has returned."""
    x, y = volumes(2, 2, 6, 7, 5), volumes(2, 2, 6, 7, 5, seed=1)
    if bad is not None:
        x[1, 1, 3, 3, 3] = bad
    loss = TopologicalLoss(**cut)
    expected, arrived = loss(x, y), threading.Event()

    def on_its_way(volumes: Tensor) -> Future:
        return pool.submit(lambda: arrived.wait(60) and volumes.detach().numpy())

    monkeypatch.setattr("nnunet_topomae.topology.loss._to_host", on_its_way)
    pending = loss.submit(x.requires_grad_(), None, loss.submit_diagrams(y))
    arrived.set()
    value = pending.result().loss
    assert torch.equal(value, expected) if bad is None else value.isnan() and expected.isnan()
    value.backward()
    assert x.grad.isfinite().all() == (bad is None)


def test_what_the_caller_does_to_the_volumes_after_submit_is_not_seen() -> None:
    loss, reconstruction, target = TopologicalLoss(), torch.randn(1, 1, 12, 12, 12), torch.randn(1, 1, 12, 12, 12)
    expected, volumes = loss(reconstruction, target), (reconstruction.clone(), target.clone())
    pending = loss.submit(volumes[0], None, loss.submit_diagrams(volumes[1]))
    for volume in volumes:
        volume.zero_()
    assert torch.equal(pending.result().loss, expected)


@needs_cuda
def test_submit_does_not_wait_for_a_gpu() -> None:
    x, y = volumes(2, 1, 12, 12, 12).cuda(), volumes(2, 1, 12, 12, 12, seed=1)
    loss = TopologicalLoss()
    diagrams = loss.submit_diagrams(y)
    expected = loss(x.cpu(), None, diagrams)
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(10**8)
        pending = loss.submit(x, None, diagrams)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(pending.result().loss.cpu(), expected)


def test_target_diagrams_of_another_kind_are_refused() -> None:
    x, y = volumes(1, 1, 8, 8, 8), volumes(1, 1, 8, 8, 8, seed=1)
    loss = TopologicalLoss(max_side=4)
    for wrong in (TopologicalLoss().diagrams(y), TopologicalLoss(max_side=4).diagrams(y[..., :3])):
        with pytest.raises(ValueError, match=r"of a volume of shape .*max_side 4"):
            loss(x, None, wrong)
    with pytest.raises(ValueError, match=r"of a volume of shape \[8, 8, 8\]"):
        loss(x, None, TopologicalLoss().submit_diagrams(y))
    with pytest.raises(ValueError, match="no diagram of dimension 1"):
        loss(x, None, TopologicalLoss((0, 2), max_side=4).diagrams(y))
    with pytest.raises(ValueError, match="one tuple of diagrams"):
        loss(x, None, persistence_diagrams(y[0, 0, :4, :4, :4].numpy())[:1])
    with pytest.raises(ValueError, match="superlevel"):
        TopologicalLoss()(x, None, [persistence_diagrams(y[0, 0].numpy(), superlevel=True)])


def test_differentiable_points_are_the_points_and_reach_their_voxels() -> None:
    x = volumes(6, 5, 4).double().requires_grad_()
    for diagram in persistence_diagrams(x):
        points = differentiable_points(diagram, x)
        np.testing.assert_array_equal(points.detach().numpy(), diagram.points)
        (gradient,) = torch.autograd.grad(points[torch.isfinite(points)].sum(), x)
        voxels = np.concatenate([diagram.birth_voxel, diagram.finite().death_voxel])
        np.testing.assert_array_equal(gradient.ravel().numpy(), np.bincount(voxels, minlength=x.numel()))
    with pytest.raises(ValueError, match=r"of shape \[6, 5, 4\], not \[4, 5, 6\]"):
        differentiable_points(diagram, x.permute(2, 1, 0))


def test_average_pool_against_plain_slices() -> None:
    volume = volumes(2, 7, 4, 10)
    pooled = average_pool(volume, max_side=4)  # factors 2, 1, 3; the last boxes are one voxel long on axes 0 and 2
    assert pooled.shape == (2, 4, 4, 4)
    for c, d, h, w in np.ndindex(*pooled.shape):
        box = volume[c, 2 * d : 2 * d + 2, h, 3 * w : 3 * w + 3]
        assert pooled[c, d, h, w].item() == pytest.approx(box.mean().item(), abs=1e-6)
    assert torch.allclose(average_pool(volume, 1).flatten(), volume.mean((1, 2, 3)), atol=1e-6)
    assert torch.equal(average_pool(volume, 10), volume)


def test_memory_format_does_not_matter() -> None:
    x, y = volumes(2, 3, 5, 6, 4), volumes(2, 3, 5, 6, 4, seed=1)
    channels_last = x.to(memory_format=torch.channels_last_3d)
    loss = TopologicalLoss(max_side=5)
    assert loss(channels_last, y) == loss(x, y)
    assert torch.equal(gradient_of(loss, channels_last, y), gradient_of(loss, x, y))


def test_descent_recovers_the_betti_numbers_of_a_torus() -> None:
    z, y, x = torch.meshgrid(*[torch.arange(16.0) - 7.5] * 3, indexing="ij")
    distance = (torch.hypot(x, y) - 4.5).square().add(z.square()).sqrt()
    torus = (distance / 2.5 - 1).clamp(-1, 1)[None, None]  # negative inside
    noisy = (torus + 0.9 * torch.randn(torus.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    assert betti_numbers(torus[0, 0].numpy() < 0) == (1, 1, 0)
    assert betti_numbers(noisy[0, 0].detach().numpy() < 0) != (1, 1, 0)
    loss = TopologicalLoss()
    diagrams = loss.diagrams(torus)
    optimizer = torch.optim.SGD([noisy], lr=0.5)
    start = loss(noisy, None, diagrams).item()
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(noisy, None, diagrams)
        value.backward()
        optimizer.step()
    assert betti_numbers(noisy[0, 0].detach().numpy() < 0) == (1, 1, 0)
    assert value.item() < 0.05 * start


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"dimensions": (0, 3)}, "some of 0, 1, 2"),
        ({"rel_tol": 0}, "rel_tol must be positive"),
        ({"max_side": 0}, "at least 1 voxel"),
        ({"max_side": 4.0}, "at least 1 voxel"),
        ({"place": -1}, "0 or more"),
        ({"normalisation": "mean"}, "none, voxels"),
        ({"backend": "cuda"}, "numba, gudhi"),
        ({"place": float("inf")}, "0 or more and finite"),
    ],
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TopologicalLoss(**settings)


def test_bad_inputs_are_refused() -> None:
    loss, x = TopologicalLoss(), volumes(2, 1, 4, 4, 4)
    with pytest.raises(ValueError, match=r"\[B, C, D, H, W\].*\[4, 4, 4\]"):
        loss(x[0, 0], x[0, 0])
    with pytest.raises(ValueError, match="differ in shape"):
        loss(x, x[:, :, :3])
    with pytest.raises(ValueError, match="one entry a sample and channel, 2; got 1"):
        loss(x, x, loss.diagrams(x[:1]))
    with pytest.raises(ValueError, match="a target or its diagrams"):
        loss(x, None)
    for wrong in (x.numpy(), x.cfloat(), None):
        with pytest.raises(TypeError, match="reconstruction must be a tensor of real numbers"):
            loss(wrong, x)


@pytest.mark.parametrize("scale", [1, (2, 1, 2)])
def test_with_scale_and_place_its_gradient_is_that_of_finite_differences(scale) -> None:
    generator = torch.Generator().manual_seed(0)
    target, start, direction = torch.randn(3, 1, 1, 8, 6, 8, generator=generator)
    loss = TopologicalLoss(scale=scale, place=0.05, rel_tol=1e-9)
    volume = start.clone().requires_grad_()
    loss(volume, target).backward()
    step = 1e-3
    above, below = (loss(start + sign * step * direction, target).item() for sign in (1, -1))
    assert (volume.grad * direction).sum().item() == pytest.approx((above - below) / (2 * step), rel=0.02)


def test_with_place_a_volume_that_is_mirrored_is_another() -> None:
    target = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    assert TopologicalLoss()(target.flip(2), target) < 1e-6
    assert TopologicalLoss(place=0.1)(target.flip(2), target) > 1
    assert TopologicalLoss(place=0.1)(target, target) < 1e-6
