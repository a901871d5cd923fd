"""How strongly each loss term pulls on each encoder: the evidence behind the terms' weights, into docs/benchmarks.md.

    python benchmarks/loss_gradients.py DATASET CONFIGURATION FOLD [-p PLANS] [--batches 8] [--device cpu|cuda]

Takes the final checkpoint of TopoMAEPretrainer from nnUNet_results, draws training batches as it did, and gives the
norm of the gradient of each term, times its weight, on the weights of the ViT encoder and of UNETR++'s encoder.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from machine import add_docs, add_fold, pretrainer, replace_section

from nnunet_topomae.losses.term import BRANCHES
from nnunet_topomae.monitoring.instruments import pull
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer
from nnunet_topomae.visualization.tables import markdown_table


def norms_of_batch(trainer: TopoMAEPretrainer, batch: dict) -> dict[str, dict[str, float]]:
    """By term, then by the network whose encoder is pulled."""
    target = trainer.step.target(batch)
    outputs = {branch: trainer.step.answer(branch, target) for branch in BRANCHES}
    norms: dict[str, dict[str, float]] = defaultdict(dict)
    for branch in BRANCHES:
        encoder = list(getattr(trainer.plain_network, branch).encoder.parameters())
        values = trainer.loss(branch, outputs, target)
        for term in (term for term in trainer.loss.terms if term.weight):
            weighted = term.weight * sum(values[curve] for curve in term.curves if curve in values)
            norms[term.name][branch] = pull(weighted, encoder)
    return norms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_fold(parser)
    parser.add_argument("--batches", type=int, default=8, help="default: %(default)s")
    add_docs(parser)
    options = parser.parse_args()

    trainer = pretrainer(options)
    checkpoint = Path(trainer.output_folder, "checkpoint_final.pth")
    if not checkpoint.is_file():
        parser.error(f"{checkpoint} does not exist: pre-train first")
    trainer.load_checkpoint(str(checkpoint))
    np.random.seed(0)
    trainer.step.seed_masks(trainer.config.seed, 0, 0)
    batches, _ = trainer.get_dataloaders()
    norms = [norms_of_batch(trainer, next(batches)) for _ in range(options.batches)]

    rows = [
        [term.name, f"{term.weight:g}"]
        + [f"{np.mean([of_batch[term.name][branch] for of_batch in norms]):.2g}" for branch in BRANCHES]
        for term in trainer.loss.terms
        if term.weight
    ]
    steps = trainer.num_epochs * trainer.num_iterations_per_epoch
    patch = "×".join(map(str, trainer.configuration_manager.patch_size))
    text = f"""## Pull of the loss terms

Written by `benchmarks/loss_gradients.py`. {trainer.plans_manager.dataset_name}, preset `{trainer.config.preset}`,
patch {patch}, mask ratio {trainer.config.mask_ratio:g}, after {steps:,} steps of pre-training. Norm of the gradient of
weight · term on the weights of each encoder, mean of {options.batches} training batches.

{markdown_table(["term", "weight", "on the ViT", "on UNETR++"], rows)}
"""
    replace_section(options.docs / "benchmarks.md", "gradients", text)
    print(text)


if __name__ == "__main__":
    main()
