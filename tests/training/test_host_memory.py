import ctypes
import platform
from pathlib import Path

import pytest

from nnunet_topomae.training.pretrainer import TopoMAEPretrainer

STATUS = Path("/proc/self/status")


def resident_mebibytes() -> float:
    """Without what the allocator holds of freed memory, which depends on threads and chance."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return next(int(line.split()[1]) / 1024 for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc")
def test_300_steps_take_no_more_memory_than_100(workshop):
    plans = workshop.plans
    plans["configurations"]["3d_fullres"]["patch_size"] = [16, 16, 16]
    trainer = workshop.build(
        TopoMAEPretrainer, plans=plans, augment_on="device", iterations_per_epoch=300, topology_max_side=8
    )
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    outputs, after = [], {}
    for step in range(1, 301):
        outputs.append(trainer.train_step(next(trainer.dataloader_train)))
        if step in (100, 300):
            after[step] = resident_mebibytes()
    trainer.on_train_epoch_end(outputs)
    assert after[300] - after[100] < 10  # MiB; the curves' values of an epoch's steps are kept to its end
