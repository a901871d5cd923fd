"""Pre-trained networks for use outside of nnU-Net: safetensors files, which hold nothing but numbers, and a JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from nnunet_topomae import __version__
from nnunet_topomae.checkpoint_files import read_restricted
from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.files import read_json, write_json, write_text, written_whole
from nnunet_topomae.hub import CARD, DESCRIPTION, VIT
from nnunet_topomae.model_card import Answers, model_card, read_answers
from nnunet_topomae.networks.copretrain import VIT_ENCODER
from nnunet_topomae.networks.vit import ViTEncoder
from nnunet_topomae.planning.blueprint import Blueprint
from nnunet_topomae.training.cases_seen import without_names
from nnunet_topomae.training.checkpoint import Origin, read_pretraining
from nnunet_topomae.training.provenance import recorded_provenance, without_folders

Weights = dict[str, torch.Tensor]

NNSSL = "nnssl.pth"  # in the layout of nnssl's checkpoints: docs/transfer.md
NNUNET = "nnunet.pth"  # for nnUNetv2_train -pretrained_weights

PARTNER = "partner."  # in the names of the weights of CoPretrainingNetwork
HEADS = ("partner.position_head.", "partner.decoder.seg_layers.")  # answers to the pretext tasks

PRETRAINING_CITATION = (
    "TopoMAE",
    "Gu, P., Li, H., Zhang, Y., Wang, C., & Chen, D. Z. (2024). Self Pre-training with Topology- and "
    "Spatiality-aware Masked Autoencoders for 3D Medical Image Segmentation. arXiv:2406.10519.",
)


def export_encoders(
    checkpoint: str | Path, folder: str | Path, overwrite: bool = False, fingerprints: bool = False
) -> list[Path]:
    """Write the ViT encoder and its partner without heads, of TopoMAEPretrainer's checkpoint; return the files.

    Args:
        checkpoint: of TopoMAEPretrainer.
        folder: gets README.md, vit_encoder.safetensors, encoders.json and, of UNETR++, unetrpp.safetensors and
            unetrpp_nnssl.pth; of the plan's network, plan_network.safetensors, plan_network_nnssl.pth and
            plan_network_nnunet.pth.
        overwrite: replace such files that are there; what README.md was filled in with is kept.
        fingerprints: write those of the cases that were trained on, so that a later training can tell them.

    Raises:
        FileExistsError: a file is there already, and `overwrite` is not set.
        OSError: there is no such checkpoint, or no room: then no new file stays behind.
        ValueError: it is not of TopoMAEPretrainer, or not safe to read.
    """
    content = read_pretraining(checkpoint)
    if content.origin is None:
        raise ValueError(f"{checkpoint} holds weights without the plans that they were trained with")
    training = read_restricted(checkpoint, mmap=True)
    vit, partner = _part(content.weights, VIT_ENCODER), _part(content.weights, PARTNER, without=HEADS)
    try:
        config = TopoMAEConfig.from_plans(content.origin.plans)
        blueprint = Blueprint.of(content.origin.configuration.configuration, config)
        description = describe_encoders(content.origin, config, blueprint)
    except KeyError as error:
        raise ValueError(f"the plans in {checkpoint} have no {error}") from error
    seen = content.cases_seen or {}
    description["pretraining"] |= {
        "cases": {dataset: len(cases) for dataset, cases in seen.items()},
        "cases_seen": without_names(seen) if seen and fingerprints else None,
        "provenance": without_folders(recorded_provenance(training)),
    }

    stem = blueprint.partner.file_stem
    numbers = {VIT: vit, f"{stem}.safetensors": partner}
    with_pickle = {f"{stem}_{NNSSL}": nnssl_checkpoint(partner, description)}
    for_nnunet = blueprint.partner.for_nnunet(partner)
    if for_nnunet is not None:
        with_pickle[f"{stem}_{NNUNET}"] = {"network_weights": for_nnunet, **_record_of(description)}
    files = {name: Path(folder, name) for name in (CARD, *numbers, DESCRIPTION, *with_pickle)}
    existing = [file for file in files.values() if file.exists()]
    if existing and not overwrite:
        raise FileExistsError(f"{', '.join(map(str, existing))}: not overwritten")
    answers = read_answers(files[CARD]) if files[CARD] in existing else Answers()
    card = model_card(description, training, list(files), (PRETRAINING_CITATION, blueprint.partner.citation), answers)
    if Path(folder).exists() and not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder} is a file: name a folder with -o")
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        for name, part in numbers.items():
            content_of_file = save(part, {"format": "pt"})
            with written_whole(files[name]) as partial:
                partial.write_bytes(content_of_file)  # `save_file` lets nobody else read it
        write_json(files[DESCRIPTION], description)
        write_text(files[CARD], card)
        for name, saved in with_pickle.items():
            with written_whole(files[name]) as partial:
                torch.save(saved, partial)
    except OSError:
        for file in set(files.values()).difference(existing):
            file.unlink(missing_ok=True)
        raise
    return list(files.values())


def describe_encoders(origin: Origin, config: TopoMAEConfig, blueprint: Blueprint) -> dict[str, Any]:
    """What one has to know to build both networks, and to prepare images for them."""
    configuration, (geometry, vit, partner) = origin.configuration, blueprint
    channels = len(configuration.normalization_schemes)
    statistics = origin.plans["foreground_intensity_properties_per_channel"]
    schemes = zip(configuration.normalization_schemes, configuration.use_mask_for_norm, strict=True)
    with torch.device("meta"):  # the names of its parts are wanted, not its weights
        network = partner.build(channels, 1)
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
            "normalisation": [  # with the statistics of the data set that schemes for CT rest on
                {"scheme": scheme, "inside_mask_only": use_mask, "foreground_intensities": statistics[str(channel)]}
                for channel, (scheme, use_mask) in enumerate(schemes)
            ],
        },
        "geometry": {
            "patch_size": geometry.patch_size,
            "token_size": geometry.token_size,
            "token_grid": geometry.token_grid,
        },
        "vit_encoder": {
            "file": VIT,
            "preset": config.preset,
            "class": f"{ViTEncoder.__module__}.{ViTEncoder.__qualname__}",
            "arguments": ViTEncoder.arguments(channels, geometry, vit),
        },
        "partner": {
            "kind": config.partner,
            "file": f"{partner.file_stem}.safetensors",
            "class": partner.class_name,
            "arguments": partner.arguments(channels),
            "arguments_to_import": list(partner.names_to_import),
            "without": list(partner.not_exported),
            "stage_grids": partner.stage_grids,
            "citation": partner.citation,
            **{name: getattr(network, name) for name in ("key_to_encoder", "key_to_stem", "keys_to_in_proj")},
        },
    }


def nnssl_checkpoint(partner: Weights, description: Mapping[str, Any]) -> dict[str, Any]:
    """The partner in the layout that nnU-Net's fine-tuning of nnssl checkpoints reads; plain types only."""
    pretraining, images, network = (description[part] for part in ("pretraining", "images", "partner"))
    patch_size = list(description["geometry"]["patch_size"])
    citations = {"Pre-Training": PRETRAINING_CITATION, "Architecture": network["citation"]}
    configuration = {
        "patch_size": patch_size,
        "spacing": list(images["spacing_mm"]),
        "normalization_schemes": [channel["scheme"] for channel in images["normalisation"]],
    }
    return {
        "network_weights": partner,
        **_record_of(description),
        "citations": [
            {"type": kind, "name": name, "apa_citations": [reference]} for kind, (name, reference) in citations.items()
        ],
        "nnssl_adaptation_plan": {
            "architecture_plans": {
                "arch_class_name": network["class"],
                "arch_kwargs": {key: value for key, value in network["arguments"].items() if key != "input_channels"},
                "arch_kwargs_requiring_import": network["arguments_to_import"],
            },
            "pretrain_plan": {
                "dataset_name": pretraining["dataset"],
                "plans_name": pretraining["plans"],
                "transpose_forward": list(images["transpose_forward"]),
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


def _record_of(description: Mapping[str, Any]) -> dict[str, Any]:
    """What a training that begins with these weights takes over."""
    return {name: description["pretraining"][name] for name in ("cases_seen", "provenance")}


def _part(weights: Mapping[str, torch.Tensor], prefix: str, without: tuple[str, ...] = ()) -> Weights:
    """The entries below `prefix`, under the names that the part itself gives them."""
    return {
        name.removeprefix(prefix): weight.contiguous().clone()  # the plan's network has two names for some weights
        for name, weight in weights.items()
        if name.startswith(prefix) and not (without and name.startswith(without))
    }


def finished_export(folder: Path) -> tuple[dict[str, Any], Answers, list[Path]]:
    """The description, the owner's answers and the files of an export.

    Raises:
        FileNotFoundError: there is none in the folder.
        ValueError: its README.md is not filled in.
    """
    card, description = folder / CARD, folder / DESCRIPTION
    if not (card.is_file() and description.is_file()):
        raise FileNotFoundError(f"{folder} has no {CARD} and {DESCRIPTION} of an export: name its CHECKPOINT too")
    answers, content = read_answers(card), read_json(description)
    if answers.missing:
        raise ValueError(f"{card} is not finished: fill in {' and '.join(answers.missing)}")
    stem = content["partner"]["file"].removesuffix(".safetensors")
    names = (CARD, DESCRIPTION, VIT, f"{stem}.safetensors", f"{stem}_{NNSSL}", f"{stem}_{NNUNET}")
    return content, answers, [folder / name for name in names if (folder / name).is_file()]
