"""Fine-tuning that begins with weights of the Hub, and what its checkpoint then tells of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nnunet_topomae.training.finetuner import TopoMAEFinetuner
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer

OPENMIND = {"source": f"hf://Lab/OpenMind@{'ab' * 20}/a.pth", "licence": "cc-by-4.0", "kind": "nnssl's"}


@pytest.fixture
def uploaded(workshop, hub, tmp_path) -> str:
    """The commit of a pre-training of random weights, which began with OpenMind's."""
    trainer = workshop.build(TopoMAEPretrainer)
    trainer.initialize()
    trainer.save_checkpoint(str(tmp_path / "checkpoint_final.pth"))
    content = torch.load(tmp_path / "checkpoint_final.pth", weights_only=False)
    content["init_args"]["provenance"] = [OPENMIND]
    torch.save(content, tmp_path / "checkpoint_final.pth")
    card = b"---\nlicense: cc-by-nc-4.0\n---\n"
    files = {"README.md": card, "checkpoint_final.pth": (tmp_path / "checkpoint_final.pth").read_bytes()}
    return hub.commit("Lab/Phantom", files)


def test_a_finetuning_names_the_chain_of_weights_that_it_comes_from(workshop, hub, uploaded, tmp_path):
    trainer = workshop.build(TopoMAEFinetuner, pretrained="hf://Lab/Phantom")
    trainer.on_train_start()
    source = f"hf://Lab/Phantom@{uploaded}/checkpoint_final.pth"
    log = Path(trainer.log_file).read_text()
    assert log.count("cc-by-nc-4.0") == 1 and f"Pre-trained weights: {source} (licence: cc-by-nc-4.0)" in log
    trainer.save_checkpoint(str(tmp_path / "finetuned.pth"))
    chain = torch.load(tmp_path / "finetuned.pth", weights_only=False)["init_args"]["provenance"]
    link = {"source": source, "licence": "cc-by-nc-4.0", "kind": "a checkpoint of TopoMAEPretrainer"}
    assert chain == [OPENMIND, link]
