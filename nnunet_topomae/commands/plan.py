"""Write plans whose patch and batch fit a GPU.

Patch and batch of each 3d configuration such that pre-training and fine-tuning both fit. A patch is never larger than
nnU-Net's: start from plans for a larger GPU (-p nnUNetResEncUNetLPlans) to get larger ones. Spacing does not change,
so the variant trains on the data that are already preprocessed. With --like, spacing, normalisation and patch are those
of the weights, as far as the GPU allows, and nnU-Net has to preprocess again.
"""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from nnunet_topomae.commands._arguments import add_dataset, add_memory, add_plans, read_dataset

EXAMPLE = "nnunet-topomae plan -d 100 --memory 24 --preset small"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_dataset(parser)
    add_plans(parser)
    parser.add_argument(
        "-o", metavar="NAME", default="nnUNetTopoMAEPlans", help="plans to write (default: %(default)s)"
    )
    add_memory(parser)
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="size of the networks: tiny, small, base or auto (default: as the plans have it, else auto)",
    )
    parser.add_argument(
        "--partner",
        metavar="NAME",
        help="network beside the ViT: plan for nnU-Net's own, unetrpp, unetrpp_acdc or unetrpp_brats (default: as the "
        "plans have it, else plan)",
    )
    parser.add_argument(
        "--like",
        metavar="CHECKPOINT",
        help="weights to begin with, of nnssl, nnU-Net or ours: plan 3d_fullres for images as they know them",
    )


def run(options: argparse.Namespace) -> None:
    from nnunet_topomae.files import write_json
    from nnunet_topomae.planning.memory import fit_plans
    from nnunet_topomae.planning.plans_file import new_plans_file

    folder, plans, dataset_json = read_dataset(options)
    file = new_plans_file(folder, options.o)
    if options.like is not None:
        plans = _plans_for(options.like, plans, options.o, options.partner)
    plans = fit_plans(plans, dataset_json, options.memory, options.o, options.preset, options.partner)
    for name, configuration in plans["configurations"].items():
        if len(configuration.get("patch_size", ())) == 3:
            print(f"{name}: patch {configuration['patch_size']}, batch {configuration['batch_size']}")
    print(f"{write_json(file, plans)}: train with -p {shlex.quote(options.o)}")
    if options.like is not None:
        names = f"-d {shlex.quote(options.d)} -plans_name {shlex.quote(options.o)}"
        print(f"but preprocess before: nnUNetv2_preprocess {names} -c 3d_fullres")


def _plans_for(reference: str, plans: dict[str, Any], new_name: str, partner: str | None) -> dict[str, Any]:
    """For images as the weights know them. Raises ValueError, also where the weights are not of the plans' network."""
    import torch

    from nnunet_topomae.config import PLANS_SECTION, TopoMAEConfig
    from nnunet_topomae.hub import local_weights
    from nnunet_topomae.networks.copretrain import PARTNER_ENCODER
    from nnunet_topomae.networks.foreign import contents
    from nnunet_topomae.networks.pretrained import ENOUGH
    from nnunet_topomae.planning.blueprint import Blueprint
    from nnunet_topomae.planning.dataset_preset import CONFIGURATION
    from nnunet_topomae.planning.like import plans_like
    from nnunet_topomae.training.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(local_weights(reference).path)
    if checkpoint.origin is None:
        raise ValueError(f"{reference} does not say what images it was trained on: plan without --like")
    theirs = dict(checkpoint.origin.configuration.configuration)
    theirs["patch_size"] = checkpoint.patch_size or theirs.get("patch_size")
    new = plans_like(plans, theirs, checkpoint.origin.transpose_forward, new_name)
    knobs = plans.get(PLANS_SECTION, {}) | ({} if partner is None else {"partner": partner})
    blueprint = Blueprint.of(new["configurations"][CONFIGURATION], TopoMAEConfig.from_plans({PLANS_SECTION: knobs}))
    with torch.device("meta"):
        network = blueprint.partner.build(1, 1)
    wanted = [f"partner.{name}" for name in network.state_dict()]
    found = checkpoint.as_pretraining(wanted)  # an error says which plans would do
    encoder = [name for name in wanted if name.startswith(PARTNER_ENCODER)]
    if sum(name in found for name in encoder) < ENOUGH * len(encoder):
        raise ValueError(f"{reference} has another encoder than these plans. {contents(checkpoint.weights)}")
    return new
