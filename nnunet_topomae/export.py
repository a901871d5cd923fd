"""Pre-trained networks for use outside of nnU-Net: safetensors files, which hold nothing but numbers, and a JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from nnunet_topomae import __version__
from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.files import write_json
from nnunet_topomae.networks.build import build_partner, unetrpp_arguments, vit_encoder_arguments
from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.networks.plan_network import PlanArchitecture, nnunet_weights, scaled_before_norms
from nnunet_topomae.networks.presets import PLAN_FINETUNE_LR, PRESETS, Preset
from nnunet_topomae.networks.unetrpp import UNETRPP
from nnunet_topomae.networks.vit import ViTEncoder
from nnunet_topomae.planning.partner import partner_architecture
from nnunet_topomae.planning.plans_file import geometry_of
from nnunet_topomae.training.base import vit_options
from nnunet_topomae.training.checkpoint import Origin, read_pretraining
from nnunet_topomae.training.leakage import CasesSeen, without_names

Weights = dict[str, torch.Tensor]

DESCRIPTION = "encoders.json"
VIT = "vit_encoder.safetensors"
PARTNER = {"unetrpp": "unetrpp", "plan": "plan_network"}  # what files of the partner begin with, by the knob
NNSSL = "nnssl.pth"  # in the layout of nnssl's checkpoints: docs/transfer.md
NNUNET = "nnunet.pth"  # for nnUNetv2_train -pretrained_weights
NNUNET_TRAINER = "nnUNetTrainerAdam1en3"  # AdamW at 1e-3, which comes with nnU-Net
# Of convolutions before norms: that trainer turns them as far in a step as our fine-tuning does at its default rate.
NNUNET_SCALE = 1e-3 / PLAN_FINETUNE_LR

VIT_PREFIX, PARTNER_PREFIX = "vit.encoder.", "partner."  # in the state dict of CoPretrainingNetwork
HEADS = ("partner.position_head.", "partner.decoder.seg_layers.")  # answers to the pretext tasks

PRETRAINING_CITATION = (
    "TopoMAE",
    "Gu, P., Li, H., Zhang, Y., Wang, C., & Chen, D. Z. (2024). Self Pre-training with Topology- and "
    "Spatiality-aware Masked Autoencoders for 3D Medical Image Segmentation. arXiv:2406.10519.",
)
ARCHITECTURE_CITATIONS = {
    "unetrpp": (
        "UNETR++",
        "Shaker, A., Maaz, M., Rasheed, H., Khan, S., Yang, M.-H., & Khan, F. S. (2024). UNETR++: Delving into "
        "Efficient and Accurate 3D Medical Image Segmentation. IEEE Transactions on Medical Imaging.",
    ),
    "plan": (
        "nnU-Net",
        "Isensee, F., Jaeger, P. F., Kohl, S. A., Petersen, J., & Maier-Hein, K. H. (2021). nnU-Net: a "
        "self-configuring method for deep learning-based biomedical image segmentation. Nature Methods, 18(2).",
    ),
}


def export_encoders(checkpoint: str | Path, folder: str | Path, overwrite: bool = False) -> list[Path]:
    """Write the ViT encoder and its partner without heads, of TopoMAEPretrainer's checkpoint; return the files.

    Args:
        checkpoint: of TopoMAEPretrainer.
        folder: gets vit_encoder.safetensors, encoders.json and, of UNETR++, unetrpp.safetensors and unetrpp_nnssl.pth;
            of the plan's network, plan_network.safetensors, plan_network_nnssl.pth and plan_network_nnunet.pth.
        overwrite: replace such files that are there.

    Raises:
        FileExistsError: a file is there already, and `overwrite` is not set.
        OSError: there is no such checkpoint.
        ValueError: it is not of TopoMAEPretrainer, or not safe to read.
    """
    content = read_pretraining(checkpoint)
    if content.origin is None:
        raise ValueError(f"{checkpoint} holds weights without the plans that they were trained with")
    vit, partner = _part(content.weights, VIT_PREFIX), _part(content.weights, PARTNER_PREFIX, without=HEADS)
    try:
        description = describe_encoders(content.origin, content.cases_seen)
    except KeyError as error:
        raise ValueError(f"the plans in {checkpoint} have no {error}") from error

    safetensors = Path(description["partner"]["file"])
    with_pickle = {f"{safetensors.stem}_{NNSSL}": nnssl_checkpoint(partner, description)}
    if description["partner"]["kind"] == "plan":
        weights = {
            "network_weights": nnunet_weights(scaled_before_norms(partner, NNUNET_SCALE)),
            "cases_seen": description["pretraining"]["cases_seen"],
        }
        with_pickle[f"{safetensors.stem}_{NNUNET}"] = weights
    files = {name: Path(folder, name) for name in (VIT, str(safetensors), DESCRIPTION, *with_pickle)}
    existing = [str(file) for file in files.values() if file.exists()]
    if existing and not overwrite:
        raise FileExistsError(f"{', '.join(existing)}: not overwritten")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, weights in ((VIT, vit), (str(safetensors), partner)):
        files[name].write_bytes(save(weights, {"format": "pt"}))  # `save_file` lets nobody else read it
    write_json(files[DESCRIPTION], description)
    for name, saved in with_pickle.items():
        torch.save(saved, files[name])
    return list(files.values())


def describe_encoders(origin: Origin, cases_seen: CasesSeen | None) -> dict[str, Any]:
    """What one has to know to build both networks, to prepare images for them, and not to test them on their own."""
    configuration = origin.configuration
    config = TopoMAEConfig.from_plans(origin.plans)
    geometry, preset = geometry_of(configuration), PRESETS[config.preset]
    channels = len(configuration.normalization_schemes)
    layer_scale = vit_options(config)["layer_scale"]
    return {
        "nnunet_topomae": __version__,
        "pretraining": {
            "dataset": origin.plans["dataset_name"],
            "plans": origin.plans["plans_name"],
            "configuration": origin.configuration_name,
            "fold": origin.fold,
            "cases_seen": None if cases_seen is None else without_names(cases_seen),
        },
        "images": {
            "channels": channels,
            "spacing_mm": configuration.spacing,
            "transpose_forward": origin.plans["transpose_forward"],
            "normalisation": _normalisation(origin),
        },
        "geometry": _geometry(geometry),
        "vit_encoder": {
            "file": VIT,
            "class": _name(ViTEncoder),
            "arguments": vit_encoder_arguments(channels, geometry, preset, layer_scale),
        },
        "partner": {
            "kind": config.partner,
            "file": f"{PARTNER[config.partner]}.safetensors",
            **_partner(channels, geometry, preset, partner_architecture(configuration.configuration, config)),
        },
    }


def _partner(
    channels: int, geometry: Geometry, preset: Preset, architecture: PlanArchitecture | None
) -> dict[str, Any]:
    """How to build it, and the names of its parts."""
    with torch.device("meta"):  # its names are wanted, not its weights
        partner = build_partner(channels, 1, geometry, preset, architecture)
    keys = {name: getattr(partner, name) for name in ("key_to_encoder", "key_to_stem", "keys_to_in_proj")}
    if architecture is None:
        arguments = unetrpp_arguments(channels, geometry, preset)
        return {"class": _name(UNETRPP), "arguments": arguments, "without": ["decoder.seg_layers"], **keys}
    return {
        "class": architecture.class_name,
        "arguments": {"input_channels": channels, **architecture.arguments},
        "arguments_to_import": list(architecture.names_to_import),
        "without": ["decoder.seg_layers", "decoder.encoder"],  # the latter is the encoder again
        **keys,
    }


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def nnssl_checkpoint(partner: Weights, description: Mapping[str, Any]) -> dict[str, Any]:
    """The partner in the layout that nnU-Net's fine-tuning of nnssl checkpoints reads; plain types only."""
    pretraining, images, network = (description[part] for part in ("pretraining", "images", "partner"))
    patch_size = list(description["geometry"]["patch_size"])
    configuration = {
        "patch_size": patch_size,
        "spacing": list(images["spacing_mm"]),
        "normalization_schemes": [channel["scheme"] for channel in images["normalisation"]],
    }
    return {
        "network_weights": partner,
        "cases_seen": pretraining["cases_seen"],
        "citations": [
            {"type": kind, "name": name, "apa_citations": [reference]}
            for kind, (name, reference) in (
                ("Pre-Training", PRETRAINING_CITATION),
                ("Architecture", ARCHITECTURE_CITATIONS[network["kind"]]),
            )
        ],
        "nnssl_adaptation_plan": {
            "architecture_plans": {
                "arch_class_name": network["class"],
                "arch_kwargs": {key: value for key, value in network["arguments"].items() if key != "input_channels"},
                "arch_kwargs_requiring_import": network.get("arguments_to_import", []),
            },
            "pretrain_plan": {
                "dataset_name": pretraining["dataset"],
                "plans_name": pretraining["plans"],
                "configurations": {pretraining["configuration"]: configuration},
            },
            "pretrain_num_input_channels": images["channels"],
            "recommended_downstream_patchsize": patch_size,
            "key_to_encoder": network["key_to_encoder"],
            "key_to_stem": network["key_to_stem"],
            "keys_to_in_proj": network["keys_to_in_proj"],
            "key_to_lpe": None,
        },
    }


def _part(weights: Mapping[str, torch.Tensor], prefix: str, without: tuple[str, ...] = ()) -> Weights:
    """The entries below `prefix`, under the names that the part itself gives them."""
    return {
        name.removeprefix(prefix): weight.contiguous().clone()  # the plan's network has two names for some weights
        for name, weight in weights.items()
        if name.startswith(prefix) and not (without and name.startswith(without))
    }


def _normalisation(origin: Origin) -> list[dict[str, Any]]:
    """Per channel nnU-Net's scheme, and the statistics of the data set that schemes for CT rest on."""
    configuration = origin.configuration
    statistics = origin.plans["foreground_intensity_properties_per_channel"]
    return [
        {"scheme": scheme, "inside_mask_only": use_mask, "foreground_intensities": statistics[str(channel)]}
        for channel, (scheme, use_mask) in enumerate(
            zip(configuration.normalization_schemes, configuration.use_mask_for_norm, strict=True)
        )
    ]


def _geometry(geometry: Geometry) -> dict[str, Any]:
    return {
        "patch_size": geometry.patch_size,
        "token_size": geometry.token_size,
        "token_grid": geometry.token_grid,
        "stem_stride": geometry.stem_stride,
        "stage_strides": geometry.stage_strides,
        "stage_grids": geometry.stage_grids,
    }
