"""Pre-trained networks for use outside of nnU-Net: safetensors files, which hold nothing but numbers, and a JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nnunet_topomae import __version__
from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.networks.copretrain import unetrpp_arguments, vit_encoder_arguments
from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.networks.presets import PRESETS
from nnunet_topomae.networks.unetrpp import UNETRPP
from nnunet_topomae.networks.vit import ViTEncoder
from nnunet_topomae.planning.plans_file import geometry_of, write_json
from nnunet_topomae.training.base import vit_options
from nnunet_topomae.training.checkpoint import Origin, read_checkpoint

Weights = dict[str, torch.Tensor]

DESCRIPTION = "encoders.json"
VIT = "vit_encoder.safetensors"
UNETRPP_WEIGHTS = "unetrpp.safetensors"
NNSSL = "unetrpp_nnssl.pth"  # the layout of nnssl's checkpoints: docs/transfer.md

VIT_PREFIX, UNETRPP_PREFIX = "vit.encoder.", "unetrpp."  # in the state dict of CoPretrainingNetwork
HEADS = ("unetrpp.position_head.", "unetrpp.decoder.seg_layers.")  # answers to the pretext tasks

CITATIONS = {
    "Pre-Training": (
        "TopoMAE",
        "Gu, P., Li, H., Zhang, Y., Wang, C., & Chen, D. Z. (2024). Self Pre-training with Topology- and "
        "Spatiality-aware Masked Autoencoders for 3D Medical Image Segmentation. arXiv:2406.10519.",
    ),
    "Architecture": (
        "UNETR++",
        "Shaker, A., Maaz, M., Rasheed, H., Khan, S., Yang, M.-H., & Khan, F. S. (2024). UNETR++: Delving into "
        "Efficient and Accurate 3D Medical Image Segmentation. IEEE Transactions on Medical Imaging.",
    ),
}


def export_encoders(checkpoint: str | Path, folder: str | Path, overwrite: bool = False) -> list[Path]:
    """Write the ViT encoder and UNETR++ without its heads, of TopoMAEPretrainer's checkpoint; return the files.

    Args:
        checkpoint: of TopoMAEPretrainer.
        folder: gets vit_encoder.safetensors, unetrpp.safetensors, encoders.json and unetrpp_nnssl.pth.
        overwrite: replace such files that are there.

    Raises:
        FileExistsError: a file is there already, and `overwrite` is not set.
        OSError: there is no such checkpoint.
        ValueError: it is not of TopoMAEPretrainer, or not safe to read.
    """
    files = {name: Path(folder, name) for name in (VIT, UNETRPP_WEIGHTS, DESCRIPTION, NNSSL)}
    existing = [str(file) for file in files.values() if file.exists()]
    if existing and not overwrite:
        raise FileExistsError(f"{', '.join(existing)}: not overwritten")
    content = read_checkpoint(checkpoint)
    vit, unetrpp = _part(content.weights, VIT_PREFIX), _part(content.weights, UNETRPP_PREFIX, without=HEADS)
    if not vit or not unetrpp or content.origin is None:
        raise ValueError(
            f"{checkpoint} is not a checkpoint of TopoMAEPretrainer: there must be weights named {VIT_PREFIX}... and "
            f"{UNETRPP_PREFIX}..., and the plans that they were trained with"
        )
    try:
        description = describe_encoders(content.origin)
    except KeyError as error:
        raise ValueError(f"the plans in {checkpoint} have no {error}") from error

    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(vit, files[VIT], {"format": "pt"})
    save_file(unetrpp, files[UNETRPP_WEIGHTS], {"format": "pt"})
    write_json(files[DESCRIPTION], description)
    torch.save(nnssl_checkpoint(unetrpp, description), files[NNSSL])
    return list(files.values())


def describe_encoders(origin: Origin) -> dict[str, Any]:
    """What one has to know to build both networks, and to prepare images for them."""
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
            "class": f"{ViTEncoder.__module__}.{ViTEncoder.__qualname__}",
            "arguments": vit_encoder_arguments(channels, geometry, preset, layer_scale),
        },
        "unetrpp": {
            "file": UNETRPP_WEIGHTS,
            "class": f"{UNETRPP.__module__}.{UNETRPP.__qualname__}",
            "arguments": unetrpp_arguments(channels, geometry, preset),
            "without": "decoder.seg_layers",
        },
    }


def nnssl_checkpoint(unetrpp: Weights, description: Mapping[str, Any]) -> dict[str, Any]:
    """UNETR++ in the layout that nnU-Net's fine-tuning of nnssl checkpoints reads; plain types only."""
    pretraining, images, network = (description[part] for part in ("pretraining", "images", "unetrpp"))
    patch_size = list(description["geometry"]["patch_size"])
    configuration = {
        "patch_size": patch_size,
        "spacing": list(images["spacing_mm"]),
        "normalization_schemes": [channel["scheme"] for channel in images["normalisation"]],
    }
    return {
        "network_weights": unetrpp,
        "citations": [
            {"type": kind, "name": name, "apa_citations": [reference]} for kind, (name, reference) in CITATIONS.items()
        ],
        "nnssl_adaptation_plan": {
            "architecture_plans": {
                "arch_class_name": network["class"],
                "arch_kwargs": {key: value for key, value in network["arguments"].items() if key != "input_channels"},
                "arch_kwargs_requiring_import": [],
            },
            "pretrain_plan": {
                "dataset_name": pretraining["dataset"],
                "plans_name": pretraining["plans"],
                "configurations": {pretraining["configuration"]: configuration},
            },
            "pretrain_num_input_channels": images["channels"],
            "recommended_downstream_patchsize": patch_size,
            "key_to_encoder": UNETRPP.key_to_encoder,
            "key_to_stem": UNETRPP.key_to_stem,
            "keys_to_in_proj": UNETRPP.keys_to_in_proj,
            "key_to_lpe": None,
        },
    }


def _part(weights: Mapping[str, torch.Tensor], prefix: str, without: tuple[str, ...] = ()) -> Weights:
    """The entries below `prefix`, under the names that the part itself gives them."""
    return {
        name.removeprefix(prefix): weight.contiguous()
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
