"""Pre-train on one data set, fine-tune on another; export; checkpoints that are not what they say."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch

from nnunet_topomae import cli
from nnunet_topomae.data.phantom import write_phantom_dataset
from nnunet_topomae.folders import trainers_folder
from nnunet_topomae.networks.pretrained import repeat_channels

pytestmark = pytest.mark.slow

UNCHANGED = {"NNUNET_TOPOMAE_FINETUNE_LR": 0}  # the weights in the checkpoint are those that were loaded


@pytest.fixture(scope="module")
def source(phantom, tmp_path_factory):
    """The phantom in preprocessed and results folders of this module's own: training writes into both."""
    preprocessed, results = tmp_path_factory.mktemp("preprocessed"), tmp_path_factory.mktemp("results")
    shutil.copytree(phantom.preprocessed_dataset, preprocessed / phantom.dataset_name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_preprocessed", str(preprocessed))
        patch.setenv("nnUNet_results", str(results))
        yield replace(phantom, preprocessed=preprocessed, results=results)


@pytest.fixture(scope="module")
def pretrained(source, train) -> Path:
    """The checkpoint of pre-training on the phantom: one channel, 1.2 mm across."""
    train(source, "TopoMAEPretrainer", NNUNET_TOPOMAE_WEIGHT_TOPOLOGY=0)
    return source.model("TopoMAEPretrainer") / "fold_0" / "checkpoint_final.pth"


@pytest.fixture(scope="module")
def other(source):
    """Two channels, coarser voxels, another patch; planned and preprocessed by nnU-Net."""
    other = replace(source, dataset_id=103, dataset_name="Dataset103_Other")
    description = write_phantom_dataset(other.raw_dataset, num_training=5, num_test=0, seed=2, width=36)
    for file in sorted((other.raw_dataset / "imagesTr").iterdir()) + sorted((other.raw_dataset / "labelsTr").iterdir()):
        image = sitk.ReadImage(str(file))
        image.SetSpacing([1.5, 1.5, 3.0])
        sitk.WriteImage(image, str(file))
        if "imagesTr" in file.parts:
            sitk.WriteImage(-image, str(file).replace("_0000.", "_0001."))
    description["channel_names"] = {"0": "T1", "1": "T2"}
    (other.raw_dataset / "dataset.json").write_text(json.dumps(description))
    other.plan()
    return other


def test_finetuning_on_another_dataset_adapts_the_weights_and_says_so(pretrained, other, train):
    log = train(other, "TopoMAEFinetuner", NNUNET_TOPOMAE_PRETRAINED=pretrained, **UNCHANGED)
    assert f"Pre-trained weights: {pretrained}" in log
    assert "adapted vit.token_embedding.weight: 1 input channels to 2" in log
    assert "adapted encoder.stages.0.0.position_embedding: grid (" in log
    assert "other dataset: Dataset100_Phantom in pre-training, Dataset103_Other here" in log
    assert "other spacing in mm: [1.2, 1.0, 1.0] in pre-training, [3.0, 1.5, 1.5] here" in log
    assert "other normalisation" not in log  # all channels are z-scored

    before = torch.load(pretrained, weights_only=True)["network_weights"]
    after = torch.load(other.model() / "fold_0" / "checkpoint_final.pth", weights_only=False)
    after = after["network_weights"]
    name = "encoder.image_block.conv1.weight"
    torch.testing.assert_close(after[name], repeat_channels(before[f"partner.{name}"], 2))
    name = "blocks.0.attn.qkv.weight"
    torch.testing.assert_close(after[f"vit.{name}"], before[f"vit.encoder.{name}"])


def test_the_plans_own_network_is_pretrained_and_goes_on_in_nnunets_own_trainer_and_from_there_in_ours(
    source, train, tmp_path, capsys
):
    dataset = ["-d", str(source.dataset_id)]
    cli.main(["plan", *dataset, "--preset", "tiny", "--partner", "plan", "-o", "own"])
    capsys.readouterr()
    cli.main(["describe", *dataset, "-p", "own"])
    described = capsys.readouterr().out
    assert "PlainConvUNet stage 1 grid" in described and "UNETR++" not in described
    knobs = {"NNUNET_TOPOMAE_PARTNER": "plan", "NNUNET_TOPOMAE_WEIGHT_TOPOLOGY": 0}
    train(source, "TopoMAEPretrainer", options=("-p", "own"), **knobs)
    results = source.results / source.dataset_name
    checkpoint = results / "TopoMAEPretrainer__own__3d_fullres" / "fold_0" / "checkpoint_final.pth"
    cli.main(["export-encoder", str(checkpoint), "-o", str(tmp_path / "a folder")])
    weights = tmp_path / "a folder" / "plan_network_nnunet.pth"
    assert f"-tr nnUNetTrainerAdam1en3 -pretrained_weights '{weights}'" in capsys.readouterr().out

    both = os.pathsep.join([str(trainers_folder()), str(Path(__file__).parent / "trainers")])
    options = ("-p", "own", "-pretrained_weights", weights)
    log = train(source, "OneStepTrainer", options=options, nnUNet_extTrainer=both)
    assert f"Loading pretrained weights from file  {weights}" in log
    theirs = results / "OneStepTrainer__own__3d_fullres" / "fold_0" / "checkpoint_final.pth"

    log = train(source, "TopoMAEFinetuner", options=("-p", "own", "-pretrained_weights", theirs), **knobs)
    assert f"{theirs} has no pre-trained ViT: the partner segments alone" in log
    source.predict(tmp_path / "predicted", results / "TopoMAEFinetuner__own__3d_fullres")
    assert len(list((tmp_path / "predicted").glob("*.nii.gz"))) == 2


class Touch:
    """Pickles to a call that creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_a_malicious_checkpoint_runs_nothing(source, train, tmp_path, refused):
    trap, file = tmp_path / "executed", tmp_path / "gift.pth"
    torch.save({"network_weights": {"vit.encoder.norm.weight": torch.ones(3)}, "init_args": Touch(trap)}, file)
    torch.load(file, weights_only=False)
    assert trap.is_dir()  # that is what the file does to an unsuspecting reader
    trap.rmdir()

    log = train(source, "TopoMAEFinetuner", check=False, NNUNET_TOPOMAE_PRETRAINED=file)
    assert f"ValueError: {file} cannot be read as a checkpoint: it is damaged, or holds what could run a program" in log
    assert "weights_only" not in log  # PyTorch's advice to open it nevertheless
    assert not trap.exists()
    assert not list(source.model().rglob("checkpoint_*"))
    refused("export-encoder", file, "-o", tmp_path / "out", saying="cannot be read as a checkpoint")
    assert not trap.exists() and not (tmp_path / "out").exists()
