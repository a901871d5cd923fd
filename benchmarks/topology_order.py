"""What the topological term of pre-training prefers, without a training.

    python benchmarks/topology_order.py --images FOLDER [--side 32 --crops 24] [--json FILE]

Hidden tokens of random crops are filled with the truth blurred, each token's mean, another image's tokens, zeros. The
term, with the knobs of the environment as pre-training would read them, should like the blurred truth best and another
image's texture least by far. FOLDER holds images in any format that nnU-Net reads.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES
from scipy.ndimage import gaussian_filter

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.losses.topology import pretraining_topology
from nnunet_topomae.networks.geometry import Geometry, geometry_from_plan
from nnunet_topomae.networks.tokens import expand_mask
from nnunet_topomae.pretext.masking import draw_masks
from nnunet_topomae.visualization.tables import markdown_table

FILLINGS = ("blurred, σ 1", "blurred, σ 2", "token means", "another image's", "zeros")
ENOUGH = 3  # times as dear as the truth blurred by one voxel should another image be


def read_images(folder: Path, side: int) -> list[np.ndarray]:
    """[C, D, H, W] each, clipped to its percentiles 0.5 and 99.5, z-scored and padded to `side`."""
    readers = {ending: reader for reader in reversed(LIST_OF_IO_CLASSES) for ending in reader.supported_file_endings}
    images = []
    for file in sorted(folder.iterdir()):
        ending = next((ending for ending in readers if file.name.endswith(ending)), None)
        if ending is not None:
            image = readers[ending]().read_images([str(file)])[0].astype(np.float32)
            image = np.clip(image, *np.percentile(image, (0.5, 99.5)))
            missing = [max(side - length, 0) for length in image.shape[1:]]
            image = (image - image.mean()) / max(float(image.std()), 1e-8)
            images.append(np.pad(image, [(0, 0), *((m // 2, m - m // 2) for m in missing)]))
    if not images:
        raise SystemExit(f"{folder} holds no image that nnU-Net reads")
    return images


def draw_crops(images: list[np.ndarray], side: int, count: int) -> torch.Tensor:
    """[count, C, side, side, side], of the images in turn."""
    rng, crops = np.random.default_rng(0), []
    for index in range(count):
        image = images[index % len(images)]
        corner = [rng.integers(length - side + 1) for length in image.shape[1:]]
        crops.append(image[(slice(None), *(slice(start, start + side) for start in corner))])
    return torch.from_numpy(np.stack(crops))


def filled(crops: torch.Tensor, geometry: Geometry) -> Iterator[tuple[str, torch.Tensor]]:
    """What stands in the hidden tokens, by name, as whole crops."""
    for sigma in (1, 2):
        yield f"blurred, σ {sigma}", torch.from_numpy(gaussian_filter(crops.numpy(), (0, 0, *[sigma] * 3)))
    token = geometry.token_size
    means = torch.nn.functional.avg_pool3d(crops, token)
    yield "token means", torch.nn.functional.interpolate(means, scale_factor=token, mode="nearest")
    yield "another image's", crops.roll(1, dims=0)
    yield "zeros", torch.zeros_like(crops)


def measure(images: list[np.ndarray], side: int, count: int, config: TopoMAEConfig) -> dict[str, float]:
    """Mean of the unweighted term, by filling."""
    halvings = int(np.log2(side)) - 2
    geometry = geometry_from_plan([side] * 3, [[1] * 3, *[[2] * 3] * halvings])
    crops = draw_crops(images, side, count)
    masks = draw_masks(count, 1, geometry.num_tokens, config.mask_ratio, torch.Generator().manual_seed(0))[:, 0]
    hidden = expand_mask(masks, geometry.token_grid, geometry.token_size)
    loss = pretraining_topology(config, geometry)
    diagrams = loss.submit_diagrams(crops)
    return {
        name: loss(torch.where(hidden, filling, crops), None, diagrams).item()
        for name, filling in filled(crops, geometry)
    }


def in_order(terms: dict[str, float]) -> bool:
    """Whether the truth blurred is best, and another image's tokens worst by far."""
    blurred, more_blurred, means, another, _ = (terms[name] for name in FILLINGS)
    return blurred < min(more_blurred, means) and max(more_blurred, means) < another and another >= ENOUGH * blurred


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--side", type=int, default=32, help="of a crop, in voxels, a power of two (default: 32)")
    parser.add_argument("--crops", type=int, default=24, help="default: 24")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the terms there, too")
    options = parser.parse_args()
    if options.side < 16 or options.side & (options.side - 1):
        parser.error("--side must be a power of two of at least 16")
    terms = measure(read_images(options.images, options.side), options.side, options.crops, TopoMAEConfig.resolve({}))
    print(markdown_table(["hidden tokens", "topological term"], [[name, f"{terms[name]:.3g}"] for name in FILLINGS]))
    times = terms["another image's"] / terms["blurred, σ 1"]
    print(f"\nAnother image costs {times:.1f} times as much as the truth blurred by one voxel: ", end="")
    print("as it should be." if in_order(terms) else f"not in order, or not {ENOUGH} times.")
    if options.json:
        options.json.write_text(json.dumps({"terms": terms, "times": times, "in_order": in_order(terms)}, indent=1))


if __name__ == "__main__":
    main()
