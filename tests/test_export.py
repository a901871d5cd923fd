"""The exported files on a pre-trainer that was built in this process; the command is tested in tests/commands."""

from __future__ import annotations

import importlib
import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from safetensors.torch import load_file
from torch import nn

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.export import export_encoders
from nnunet_topomae.networks import CoPretrainingNetwork
from nnunet_topomae.networks.hybrid import HybridSegmentationNetwork
from nnunet_topomae.networks.partners.plan import NNUNET_SCALE, PlanPartner, scaled_before_norms
from nnunet_topomae.planning.blueprint import Blueprint
from nnunet_topomae.training.cases_seen import recorded_cases

PATCH = (16, 32, 24)
PLANS = {
    "dataset_name": "Dataset007_Somewhere",
    "plans_name": "nnUNetPlans",
    "transpose_forward": [1, 0, 2],
    "foreground_intensity_properties_per_channel": {"0": {"mean": 40.0, "std": 10.0}, "1": {"mean": 3.0, "std": 1.0}},
    "configurations": {
        "3d_fullres": {
            "patch_size": list(PATCH),
            "spacing": [3.0, 1.5, 0.75],
            "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
            "use_mask_for_norm": [False, True],
            "architecture": {"arch_kwargs": {"strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 1], [1, 2, 1]]}},
        }
    },
    "topomae": {"preset": "tiny", "partner": "unetrpp", "layer_scale": 0.0},
}


def blueprint_of(plans: dict) -> Blueprint:
    return Blueprint.of(plans["configurations"]["3d_fullres"], TopoMAEConfig.from_plans(plans))


@pytest.fixture(scope="module")
def pretrained() -> CoPretrainingNetwork:
    """Weights and statistics as different as after training."""
    torch.manual_seed(0)
    network = CoPretrainingNetwork(2, *blueprint_of(PLANS)).eval()
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
    return network


@pytest.fixture(scope="module")
def checkpoint(pretrained, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("pretraining") / "checkpoint_final.pth"
    arguments = {"plans": PLANS, "configuration": "3d_fullres", "fold": 3, "cases_seen": {"Dataset007": {"12ab": "x"}}}
    torch.save({"network_weights": pretrained.state_dict(), "init_args": arguments}, file)
    return file


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "new"
    files = export_encoders(checkpoint, folder)
    assert sorted(files) == sorted(folder.iterdir())
    return folder


@pytest.fixture
def description(exported) -> dict:
    return json.loads((exported / "encoders.json").read_text())


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(1, 2, *PATCH, generator=torch.Generator().manual_seed(1))


def build(part: dict, **more) -> nn.Module:
    """What a reader of the JSON does."""
    module, _, name = part["class"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**part["arguments"], **more).eval()


def test_the_vit_encoder_is_rebuilt_from_the_json(exported, description, pretrained, image):
    part = description["vit_encoder"]
    vit = build(part)
    vit.load_state_dict(load_file(exported / part["file"]))
    with torch.no_grad():
        torch.testing.assert_close(vit(image), pretrained.vit.encoder(image), rtol=0, atol=1e-6)


def test_unetrpp_is_rebuilt_from_the_json_but_for_its_heads(exported, description, pretrained, image):
    part = description["partner"]
    unetrpp = build(part, num_classes=4)
    missing, unexpected = unetrpp.load_state_dict(load_file(exported / part["file"]), strict=False)
    assert not unexpected and missing and all(name.startswith(tuple(part["without"])) for name in missing)
    unetrpp.decoder.seg_layers = pretrained.partner.decoder.seg_layers
    unetrpp.decoder.deep_supervision = False
    with torch.no_grad():
        features, theirs = unetrpp.encoder(image), pretrained.partner.encoder(image)
        for ours, original in zip(features, theirs, strict=True):
            torch.testing.assert_close(ours, original, rtol=0, atol=1e-6)
        torch.testing.assert_close(unetrpp(image), pretrained.partner(image).reconstruction[:, 0], rtol=0, atol=1e-6)


def test_the_json_says_how_to_prepare_images(description):
    assert description["pretraining"] == {
        "dataset": "Dataset007_Somewhere",
        "plans": "nnUNetPlans",
        "configuration": "3d_fullres",
        "fold": 3,
        "cases": {"Dataset007": 1},
        "cases_seen": None,
        "provenance": [],
    }
    assert description["images"]["spacing_mm"] == [3.0, 1.5, 0.75]
    assert description["images"]["transpose_forward"] == [1, 0, 2]
    assert description["images"]["normalisation"] == [
        {"scheme": "CTNormalization", "inside_mask_only": False, "foreground_intensities": {"mean": 40.0, "std": 10.0}},
        {
            "scheme": "ZScoreNormalization",
            "inside_mask_only": True,
            "foreground_intensities": {"mean": 3.0, "std": 1.0},
        },
    ]
    assert description["geometry"] == {"patch_size": list(PATCH), "token_size": [4, 8, 4], "token_grid": [4, 4, 6]}
    assert description["partner"]["stage_grids"][3] == [4, 2, 6]


def test_nnunet_loads_unetrpp_from_the_nnssl_layout(exported, pretrained, image, capsys):
    """The steps of nnU-Net's fine-tuning from nnssl, for a network that our plan's class name builds."""
    file = exported / "unetrpp_nnssl.pth"
    content = torch.load(file, weights_only=True)
    plan = content["nnssl_adaptation_plan"]
    (configuration,) = plan["pretrain_plan"]["configurations"].values()
    assert configuration["spacing"] == [3.0, 1.5, 0.75] and configuration["patch_size"] == [16, 32, 24]
    architecture = plan["architecture_plans"]

    def network() -> nn.Module:
        return get_network_from_plans(
            architecture["arch_class_name"],
            architecture["arch_kwargs"],
            architecture["arch_kwargs_requiring_import"],
            plan["pretrain_num_input_channels"],
            3,
            deep_supervision=False,
        ).eval()

    def stripped(key: str) -> dict[str, torch.Tensor]:
        weights = content["network_weights"]
        return {name.removeprefix(f"{key}."): weight for name, weight in weights.items() if name.startswith(key)}

    by_parts, whole = network(), network()
    by_parts.get_submodule(by_parts.key_to_encoder).load_state_dict(stripped(plan["key_to_encoder"]))
    by_parts.get_submodule(by_parts.key_to_stem).load_state_dict(stripped(plan["key_to_stem"]))
    load_pretrained_weights(whole, file)  # nnUNetv2_train -pretrained_weights
    for loaded in (by_parts, whole):
        with torch.no_grad():
            torch.testing.assert_close(loaded.encoder(image)[-1], pretrained.partner.encoder(image)[-1])
    assert torch.equal(
        whole.decoder.up_blocks[0].upsampling.weight, pretrained.partner.decoder.up_blocks[0].upsampling.weight
    )
    for key in plan["keys_to_in_proj"]:
        assert whole.get_parameter(f"{key}.weight").shape[1] == 2


def test_whoever_may_read_one_of_the_files_may_read_all(exported):
    files = [file for file in exported.iterdir() if file.is_file()]
    assert len({file.stat().st_mode for file in files}) == 1


def test_a_file_is_no_folder(checkpoint):
    with pytest.raises(NotADirectoryError, match="is a file: name a folder with -o"):
        export_encoders(checkpoint, checkpoint, overwrite=True)


def test_other_checkpoints_are_refused_and_nothing_is_written(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    finetuned = HybridSegmentationNetwork(2, 3, *blueprint_of(PLANS)).state_dict()
    for name, other, message in (
        ("finetuned", content | {"network_weights": finetuned}, "not a checkpoint of TopoMAEPretrainer"),
        ("weights alone", {"network_weights": content["network_weights"]}, "the plans that they were trained with"),
        ("no weights", {"init_args": content["init_args"]}, "holds no 'network_weights'"),
    ):
        torch.save(other, tmp_path / name)
        with pytest.raises(ValueError, match=message):
            export_encoders(tmp_path / name, tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        export_encoders(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ the plan's network


@pytest.fixture(scope="module", params=["PlainConvUNet", "ResidualEncoderUNet"])
def exported_plan(request, planned_network, tmp_path_factory) -> tuple[Path, CoPretrainingNetwork, PlanPartner]:
    """Files of a pre-training whose partner is nnU-Net's own network, that pre-training, and the plan's description."""
    strides = PLANS["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["strides"]
    plans = deepcopy(PLANS) | {"topomae": {"preset": "tiny", "partner": "plan"}}
    plans["configurations"]["3d_fullres"]["architecture"] = planned_network(request.param, strides)
    blueprint = blueprint_of(plans)
    network = CoPretrainingNetwork(2, *blueprint).eval()
    folder = tmp_path_factory.mktemp("plan")
    arguments = {"plans": plans, "configuration": "3d_fullres", "fold": 0, "cases_seen": {"Dataset007": {"12ab": "x"}}}
    torch.save({"network_weights": network.state_dict(), "init_args": arguments}, folder / "checkpoint_final.pth")
    export_encoders(folder / "checkpoint_final.pth", folder / "exported", fingerprints=True)
    return folder / "exported", network, blueprint.partner


def test_nnunets_own_trainer_takes_the_plans_network_as_it_is(exported_plan, image):
    """`nnUNetv2_train -pretrained_weights`: every weight but the segmentation layers' must be there."""
    folder, pretrained, partner = exported_plan
    file = folder / "plan_network_nnunet.pth"
    network = partner.nnunets_network(2, 4, deep_supervision=False).eval()
    load_pretrained_weights(network, file)
    scaled = deepcopy(pretrained.partner)
    scaled.load_state_dict(scaled_before_norms(scaled.state_dict(), NNUNET_SCALE))
    with torch.no_grad():
        network.decoder.seg_layers = pretrained.partner.decoder.seg_layers
        torch.testing.assert_close(network(image), scaled(image).reconstruction[:, 0], rtol=0, atol=0)
        network.load_state_dict(scaled_before_norms(network.state_dict(), 1 / NNUNET_SCALE))  # the same but for ε
        expected = pretrained.partner(image).reconstruction[:, 0]
        torch.testing.assert_close(network(image), expected, rtol=1e-5, atol=1e-5)  # rounding
    assert recorded_cases(torch.load(file, weights_only=True)) == {"Dataset007": {"12ab": "a case"}}


def test_the_plans_network_is_rebuilt_from_the_json(exported_plan, image):
    folder, pretrained, _ = exported_plan
    part = json.loads((folder / "encoders.json").read_text())["partner"]
    channels = part["arguments"].pop("input_channels")
    network = get_network_from_plans(
        part["class"], part["arguments"], part["arguments_to_import"], channels, 3, deep_supervision=False
    ).eval()
    missing, unexpected = network.load_state_dict(load_file(folder / part["file"]), strict=False)
    assert not unexpected and all(name.startswith(tuple(part["without"])) for name in missing)
    with torch.no_grad():
        for ours, theirs in zip(network.encoder(image), pretrained.partner.encoder(image), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    nnssl = torch.load(folder / "plan_network_nnssl.pth", weights_only=True)["nnssl_adaptation_plan"]
    for key in (nnssl["key_to_encoder"], nnssl["key_to_stem"], *nnssl["keys_to_in_proj"]):
        network.get_submodule(key)
