"""The pictures of docs/topology.md."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import ndimage

from nnunet_topomae.data.phantom import phantom_case
from nnunet_topomae.topology import (
    TopologicalLoss,
    betti_numbers,
    persistence_diagrams,
    plot_diagrams,
    squared_wasserstein,
)

SIDE = 28
LEVEL = 1.0  # the sublevel set in which we count
COLOURS = ("tab:blue", "tab:orange", "tab:green")
NAMES = ("components", "tunnels", "cavities")


def hollow_torus() -> np.ndarray:
    """Distance to the surface of a torus, at most 4: below 1 lies a tyre (1 component, 2 tunnels, 1 cavity)."""
    z, y, x = np.meshgrid(*[np.arange(SIDE) - (SIDE - 1) / 2] * 3, indexing="ij")
    return np.minimum(np.abs(np.hypot(np.hypot(x, y) - 8, z) - 3.5), 4).astype(np.float32)


def noisy(volume: np.ndarray) -> np.ndarray:
    return (volume + np.random.default_rng(0).normal(scale=0.6, size=volume.shape)).astype(np.float32)


def filtration(image: np.ndarray, levels: tuple[float, ...]) -> Figure:
    """An image and its sublevel sets at rising levels, components coloured."""
    figure, axes = plt.subplots(1, len(levels) + 1, figsize=(2.2 * (len(levels) + 1), 2.6), layout="constrained")
    axes[0].imshow(image, cmap="gray")
    axes[0].set_title("an image", fontsize=9)
    for axis, level in zip(axes[1:], levels, strict=True):
        mask = image <= level
        components, tunnels, _ = betti_numbers(mask[None])
        axis.imshow(np.where(mask, image, np.nan), cmap="gray", vmin=image.min(), vmax=image.max(), alpha=0.3)
        labels = np.ma.masked_equal(ndimage.label(mask)[0], 0)
        axis.imshow(labels % 10, cmap="tab10", vmin=0, vmax=9, alpha=0.8)
        axis.set_title(f"voxels ≤ {level:g}\n{components} components, {tunnels} holes", fontsize=9)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    return figure


def volume_and_diagram(volume: np.ndarray) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained", width_ratios=(1, 1, 1.2))
    middle = SIDE // 2
    for axis, image, title in (
        (axes[0], volume[middle], "slice across the axis"),
        (axes[1], volume[:, middle], "slice along the axis"),
    ):
        axis.imshow(image, cmap="gray")
        axis.set(xticks=[], yticks=[], title=title)
    plot_diagrams(persistence_diagrams(volume), axis=axes[2])
    axes[2].axhline(LEVEL, color="grey", linewidth=0.5)
    axes[2].axvline(LEVEL, color="grey", linewidth=0.5)
    axes[2].set_title("its persistence diagrams")
    return figure


def matching(ours: np.ndarray, target: np.ndarray, k: int = 1) -> Figure:
    """The diagrams of two volumes in dimension k, and the optimal matching between them."""
    a, b = (persistence_diagrams(v)[k].finite() for v in (ours, target))
    figure, axis = plt.subplots(figsize=(4.4, 6), layout="constrained")
    plot_diagrams(a, b, squared_wasserstein(a, b), axis)
    axis.set(xlim=(-0.3, 2.6), ylim=(-0.3, 4.6))  # what is born later is noise far from the torus
    axis.set_title(f"dimension {k}: red, pairs; grey, to the diagonal", fontsize=10)
    for text, name in zip(axis.get_legend().get_texts(), ("noisy torus", "clean torus"), strict=True):
        text.set_text(name)
    return figure


def descent(ours: np.ndarray, target: np.ndarray, steps: int = 60) -> Figure:
    """Gradient descent on the loss alone: slices before and after, the first step, the loss and the Betti numbers."""
    loss = TopologicalLoss()
    x = torch.from_numpy(ours.copy())[None, None].requires_grad_()
    diagrams = loss.diagrams(torch.from_numpy(target)[None, None])
    optimizer = torch.optim.SGD([x], lr=0.5)
    values, errors, first_step = [], [], None
    expected = np.array(betti_numbers(target <= LEVEL))
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(x, None, diagrams)
        value.backward()
        first_step = -0.5 * x.grad[0, 0].numpy() if first_step is None else first_step
        values.append(value.item())
        errors.append(np.abs(np.array(betti_numbers(x.detach()[0, 0].numpy() <= LEVEL)) - expected))
        optimizer.step()
    after = x.detach()[0, 0].numpy()

    figure, axes = plt.subplots(1, 5, figsize=(13, 2.9), layout="constrained", width_ratios=(1, 1, 1, 1, 1.4))
    middle = SIDE // 2
    for axis, volume, title in (
        (axes[0], target, "target"),
        (axes[1], ours, "noisy"),
        (axes[3], after, f"after {steps} steps"),
    ):
        axis.imshow(volume[middle], cmap="gray", vmin=ours.min(), vmax=ours.max())
        axis.contour(volume[middle], levels=[LEVEL], colors="tab:red", linewidths=0.7)
        axis.set_title(f"{title}\nBetti numbers " + ", ".join(map(str, betti_numbers(volume <= LEVEL))), fontsize=9)
    axes[2].imshow(first_step[middle], cmap="coolwarm", vmin=-1, vmax=1)
    axes[2].set_title("the first step\nblue: down, red: up", fontsize=9)
    for axis in axes[:4]:
        axis.set(xticks=[], yticks=[])
    axes[4].semilogy(values, color="black", label="loss")
    for k, error in enumerate(np.transpose(errors)):
        axes[4].semilogy(np.where(error > 0, error, np.nan), ".", color=COLOURS[k], label=f"wrong {NAMES[k]}")
    axes[4].set_xlabel("step")
    axes[4].legend(fontsize=7)
    return figure


def pulls(image: np.ndarray, token: int = 8, sigma: float = 2) -> Figure:
    """What the plain term and that with scale and place pull at, where hidden tokens hold the truth blurred."""
    image = image[tuple(slice((side - 32) // 2, (side - 32) // 2 + 32) for side in image.shape)].astype(np.float32)
    image = (image - image.mean()) / image.std()
    tokens = np.random.default_rng(0).random((32 // token,) * 3) < 0.75
    hidden = np.kron(tokens, np.ones((token,) * 3)) > 0
    completed = np.where(hidden, ndimage.gaussian_filter(image, sigma), image)
    slopes = {}
    for name, loss in (
        ("plain", TopologicalLoss()),
        ("with scale and place", TopologicalLoss(scale=token // 4, place=0.1)),
    ):
        x = torch.from_numpy(completed)[None, None].requires_grad_()
        loss(x, torch.from_numpy(image)[None, None]).backward()
        slopes[name] = np.where(hidden, -x.grad[0, 0].numpy(), 0)

    figure, axes = plt.subplots(1, 4, figsize=(12, 3.6), layout="constrained")
    middle = 18
    for axis, volume, title in (
        (axes[0], image, "truth"),
        (axes[1], completed, f"hidden tokens: blurred, σ {sigma:g}"),
    ):
        axis.imshow(volume[middle], cmap="gray", vmin=image.min(), vmax=image.max())
        axis.set_title(title, fontsize=10)
    for axis, (name, slope) in zip(axes[2:], slopes.items(), strict=True):
        strongest = np.abs(slope[middle]).max()
        axis.imshow(slope[middle], cmap="coolwarm", vmin=-strongest, vmax=strongest)
        share = np.count_nonzero(slope) / np.count_nonzero(hidden)
        axis.set_title(f"pull, {name} (red: up)\nfelt by {share:.0%} of the hidden voxels", fontsize=10)
    for axis in axes:
        axis.contour(hidden[middle], levels=[0.5], colors="tab:green", linewidths=0.8)
        axis.set(xticks=[], yticks=[])
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    images = Path(__file__).parents[1] / "docs" / "images"
    parser.add_argument("folder", type=Path, nargs="?", default=images, help="to write to (default: docs/images)")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    target = hollow_torus()
    ours = noisy(target)
    image = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(48, 48)), 3, mode="wrap")
    image = np.round(image / np.abs(image).max() * 10).astype(np.float32)
    figures = {
        "filtration": filtration(image, levels=(-5, -2, 0, 3)),
        "diagram": volume_and_diagram(ours),
        "matching": matching(ours, target),
        "descent": descent(ours, target),
        "pulls": pulls(phantom_case(np.random.default_rng(0), width=48)[0]),
    }
    for name, figure in figures.items():
        figure.savefig(folder / f"topology_{name}.png", dpi=90)


if __name__ == "__main__":
    main()
