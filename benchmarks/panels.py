"""What the panels of a pre-training cost beside its steps, into docs/benchmarks.md.

    python benchmarks/panels.py DATASET CONFIGURATION FOLD [-p PLANS] [--steps 20] [--device cpu|cuda]

On a CPU time of the processor is counted, so that other programs do not matter; on a GPU time of the clock.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from machine import add_docs, add_fold, machine, pretrainer, replace_section

from nnunet_topomae.config import TopoMAEConfig

DEFAULTS = TopoMAEConfig()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    begin = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_fold(parser)
    parser.add_argument("--steps", type=int, default=20, help="default: %(default)s")
    add_docs(parser)
    options = parser.parse_args()

    device = torch.device(options.device)
    trainer = pretrainer(options)
    trainer.on_train_start()
    torch.set_num_threads(1)
    validation = trainer.validation_dataset

    def step() -> None:
        trainer.train_step(next(trainer.dataloader_train))

    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    trainer.current_epoch = 1
    step()
    trainer._save_panels(validation)  # both once to warm up
    trainer.network.train()
    of_step = np.median([seconds(step, device) for _ in range(options.steps)])
    of_panels = np.median([seconds(lambda: trainer._save_panels(validation), device) for _ in range(3)])
    steps = of_panels / of_step
    epoch = DEFAULTS.iterations_per_epoch
    where = f"{machine(['torch', 'matplotlib'])}, {options.device}"
    patch = " × ".join(map(str, trainer.geometry.patch_size))
    text = (
        f"Preset {trainer.config.preset}, patch {patch}, batch {trainer.batch_size}; {where}.\nSaving panels takes as "
        f"long as {steps:.1f} training steps. With `panel_every={DEFAULTS.panel_every}` and {epoch} steps an epoch "
        f"that is {steps / epoch / DEFAULTS.panel_every:.3%} of the time of\nall steps, with `panel_every=1` "
        f"{steps / epoch:.1%}."
    )
    print(text)
    replace_section(options.docs / "benchmarks.md", "panels", f"## Panels during pre-training\n\n{text}")


if __name__ == "__main__":
    main()
