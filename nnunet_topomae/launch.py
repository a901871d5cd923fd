"""nnUNetv2_train on several machines, and elastic: to be started by torchrun, once on each machine.

    torchrun --nnodes N --nproc_per_node M --rdzv-backend c10d --rdzv-endpoint HOST --rdzv-id JOB \\
        -m nnunet_topomae.launch DATASET 3d_fullres FOLD -tr TopoMAEPretrainer

The options are those of nnUNetv2_train. One differs: `--c` is always on. torchrun starts this same command again after
a failure, and when a machine joins, so it must never begin anew what has begun. docs/speed.md tells more.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from nnunet_topomae.checkpoint_files import read_trusted_checkpoint
from nnunet_topomae.topology.pool import usable_cores
from nnunet_topomae.training.distributed import PATIENCE, place
from nnunet_topomae.training.start import StartedTrainer


@record
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    device = join_processes(args.device)
    trainer = get_trainer_from_args(
        args.dataset_name_or_id, args.configuration, args.fold, args.tr, args.p, continue_training=True, device=device
    )
    place(trainer, device)
    trainer.disable_checkpointing = args.disable_checkpointing
    load_weights(trainer, args.val, args.pretrained_weights)
    torch.backends.cudnn.benchmark = True
    if not args.val:
        trainer.run_training()
    if args.val_best:
        trainer.load_checkpoint(str(Path(trainer.output_folder, "checkpoint_best.pth")))
    trainer.perform_actual_validation(args.npz)
    dist.barrier()
    dist.destroy_process_group()


def join_processes(device_type: str) -> torch.device:
    """Joins the processes that torchrun has started; returns the device of this one."""
    if "LOCAL_RANK" not in os.environ:
        raise SystemExit("start this with torchrun (docs/speed.md); on one machine nnUNetv2_train does as well")
    if device_type == "cpu":
        torch.set_num_threads(usable_cores())
        dist.init_process_group("gloo", timeout=PATIENCE)
        return torch.device("cpu")
    local_rank = int(os.environ["LOCAL_RANK"])
    if local_rank >= torch.cuda.device_count():
        raise SystemExit(
            f"process {local_rank} of this machine has no GPU: it has {torch.cuda.device_count()}. "
            "Give torchrun --nproc_per_node that number, or this command -device cpu"
        )
    torch.set_num_threads(1)
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", timeout=PATIENCE)
    return device


def load_weights(trainer: nnUNetTrainer, validation_only: bool, pretrained_weights: str | None) -> None:
    """The checkpoint that nnU-Net's `--c` or `--val` would take; without one, `pretrained_weights` where given.

    Raises:
        RuntimeError: the processes do not see the same checkpoints.
    """
    folder = Path(trainer.output_folder)
    found = {file.name: file.stat().st_mtime_ns for file in folder.glob("checkpoint_*.pth")}
    found_by_rank = [found] * dist.get_world_size()
    dist.all_gather_object(found_by_rank, found)
    if any(others != found for others in found_by_rank):
        raise RuntimeError(
            f"the processes see different checkpoints in {folder}; by rank: "
            f"{[sorted(each) for each in found_by_rank]}. "
            "nnUNet_results must lie on a file system that all machines share"
        )
    goes_on = bool(found) and not validation_only
    maybe_load_checkpoint(trainer, goes_on, validation_only)
    if goes_on:
        trainer.print_to_log_file(f"Going on after {trainer.current_epoch} epochs. To train anew, delete {folder}")
    elif pretrained_weights is not None and not validation_only:
        if isinstance(trainer, StartedTrainer):
            trainer.start_from(pretrained_weights, "-pretrained_weights")
        else:
            trainer.initialize()
            load_pretrained_weights(trainer.network.module, pretrained_weights)


def load_pretrained_weights(network: torch.nn.Module, checkpoint: str) -> None:
    """nnU-Net's -pretrained_weights: all but the segmentation layers. Its own function needs a GPU of index rank.

    Raises:
        ValueError: names or shapes differ.
    """
    network = getattr(network, "_orig_mod", network)  # torch.compile's
    theirs = read_trusted_checkpoint(checkpoint)["network_weights"]
    merged, unfit = network.state_dict(), []
    for name, weight in merged.items():
        if ".seg_layers." in name:
            continue
        if name in theirs and theirs[name].shape == weight.shape:
            merged[name] = theirs[name]
        else:
            unfit.append(name)
    if unfit:
        raise ValueError(f"{checkpoint} does not fit this network: missing, or of another shape: {', '.join(unfit)}")
    network.load_state_dict(merged)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchrun ... -m nnunet_topomae.launch", description="nnUNetv2_train on several machines."
    )
    parser.add_argument("dataset_name_or_id")
    parser.add_argument("configuration")
    parser.add_argument("fold", type=lambda fold: fold if fold == "all" else int(fold), help="a number, or all")
    parser.add_argument("-tr", default="nnUNetTrainer", help="trainer (default: %(default)s)")
    parser.add_argument("-p", default="nnUNetPlans", help="plans (default: %(default)s)")
    parser.add_argument("-pretrained_weights", help="checkpoint of the same network to begin with")
    parser.add_argument("-device", choices=("cuda", "cpu"), default="cuda", help="default: %(default)s")
    parser.add_argument("--c", action="store_true", help="go on from the last checkpoint; always on")
    parser.add_argument("--val", action="store_true", help="validation only, with checkpoint_final")
    parser.add_argument("--val_best", action="store_true", help="validate checkpoint_best")
    parser.add_argument("--npz", action="store_true", help="save probabilities in validation")
    parser.add_argument("--disable_checkpointing", action="store_true", help="write no checkpoint")
    return parser


if __name__ == "__main__":
    main()
