from itertools import count

import torch

from nnunet_topomae.training.prefetch import Prefetcher


class Log(list):
    """A source of numbered batches, and what was done with them, in order."""

    def source(self):
        for i in count():
            self.append(f"read {i}")
            yield {"data": torch.tensor([float(i)])}

    def prepare(self, batch: dict, number: int) -> dict:
        self.append(f"augment {int(batch['data'])} as number {number}")
        return {"data": batch["data"] + 0.5}


def test_one_batch_is_ready_before_it_is_asked_for():
    log = Log()
    batches = Prefetcher(log.source(), log.prepare, torch.device("cpu"))
    batches.begin_epoch(3)
    for number in range(3):
        assert next(batches)["data"] == number + 0.5
        log.append(f"step {number}")
        batches.look_ahead()
        batches.look_ahead()  # of a gradient scaler's optimiser, or of none: the second time nothing is left to do
    assert log == [
        *("read 0", "augment 0 as number 0", "step 0"),
        *("read 1", "augment 1 as number 1", "step 1"),
        *("read 2", "augment 2 as number 2", "step 2"),  # and none for the next epoch, which has other seeds
    ]


def test_batches_are_numbered_anew_in_each_epoch():
    log = Log()
    batches = Prefetcher(log.source(), log.prepare, torch.device("cpu"))
    for _ in range(2):
        batches.begin_epoch(2)
        next(batches), next(batches)
    assert [entry for entry in log if "augment" in entry] == [
        "augment 0 as number 0",
        "augment 1 as number 1",
        "augment 2 as number 0",
        "augment 3 as number 1",
    ]


def test_without_an_epoch_nothing_is_read_in_advance():
    log = Log()
    batches = Prefetcher(log.source(), log.prepare, torch.device("cpu"))
    next(batches)
    batches.look_ahead()
    assert log == ["read 0", "augment 0 as number 0"]
