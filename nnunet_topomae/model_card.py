"""The README.md of exported networks, in the form of the Hugging Face Hub, with fields that only their owner can fill.

Numbers alone are told of the images: no names of cases, no folders of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nnunet_topomae import __version__
from nnunet_topomae.config import FINETUNING, TopoMAEConfig
from nnunet_topomae.hub import SCHEME, front_matter
from nnunet_topomae.monitoring.instruments import (
    BETTI_RATIOS,
    DEAD_TOKEN_STD,
    POINT_RATIOS,
    RECONSTRUCTION_RATIOS,
    TOKEN_STD,
)
from nnunet_topomae.networks.partners.plan import NNUNET_TRAINER
from nnunet_topomae.planning.plans_file import configuration_of
from nnunet_topomae.training.provenance import Provenance, in_words
from nnunet_topomae.visualization.tables import markdown_table

LIBRARY = "nnunet-topomae"
REPOSITORY = "OWNER/NAME"  # until it is uploaded
HEADING = "## Data statement"
PLACEHOLDER = (
    "<!-- To be filled in, as `license` at the top: where the images come from, what they show, and under which "
    "licence, approval or consent they were used. No names of patients or cases. -->"
)
INSTRUMENTS = {  # of the ViT and of its partner
    "masked squared error over that of harmonic inpainting, which learns nothing": RECONSTRUCTION_RATIOS[:2],
    "Betti error over that of harmonic inpainting": BETTI_RATIOS,
    "error of the nine points over that of one answer for all crops": POINT_RATIOS,
    f"spread of features over tokens, {DEAD_TOKEN_STD:g} or less if the ViT has died": (TOKEN_STD, ""),
}
NONE = "–"
NO_FILE_PATH = ("pretrained",)  # a knob whose value may be a folder of this machine; provenance says it


class Answers(NamedTuple):
    """What only the owner of the images can say; `missing`: where that is still to be said."""

    licence: str = ""
    statement: str = ""

    @property
    def missing(self) -> list[str]:
        asked = {"`license:` at the top": self.licence, f"the section {HEADING.strip('# ')!r}": self.statement}
        return [name for name, answer in asked.items() if not answer]


def read_answers(card: Path) -> Answers:
    """Those that a model card of ours has so far. Raises ValueError where it is another file."""
    text, data = card.read_text(encoding="utf-8"), front_matter(card)
    if data.get("library_name") != LIBRARY:
        raise ValueError(f"{card} was not written by export-encoder: move it away, or export to another folder")
    section = re.split(r"^##? ", text.partition(f"\n{HEADING}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return Answers(str(data.get("license") or ""), re.sub(r"<!--.*?-->", "", section, flags=re.DOTALL).strip())


def model_card(
    description: Mapping[str, Any],
    training: Mapping[str, Any],
    files: Sequence[str],
    citations: Sequence[tuple[str, str]],
    answers: Answers,
) -> str:
    """The card as Markdown.

    Args:
        description: of the networks, the content of encoders.json.
        training: `init_args` and `logging` of the checkpoint.
        files: that lie beside it.
        citations: name and reference of what was used.
        answers: of their owner.
    """
    pretraining, vit = description["pretraining"], description["vit_encoder"]["arguments"]
    plans, logging = training["init_args"]["plans"], training.get("logging", {})
    chain: Provenance = pretraining["provenance"]
    sources = [link["source"] for link in chain]
    config = TopoMAEConfig.from_plans(plans)
    partner = description["partner"]["class"].rpartition(".")[-1]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("model_card.md.j2").render(
        library=LIBRARY,
        config=config,
        title=f"{partner} and ViT, pre-trained on {pretraining['dataset']}",
        networks=f"a ViT encoder (`{config.preset}`, depth {vit['depth']}, {vit['embed_dim']} wide) and {partner}",
        base_models=dict.fromkeys(
            name.removeprefix(SCHEME).partition("@")[0] for name in sources if name.startswith(SCHEME)
        ),
        heading=HEADING,
        placeholder=PLACEHOLDER,
        answers=answers,
        facts=markdown_table(("", ""), _facts(description, training, config, len(logging.get("train_losses", ())))),
        knobs=_knobs(config),
        provenance=[in_words(link) for link in chain],
        instruments=_instruments(logging),
        repository=REPOSITORY,
        configuration=pretraining["configuration"],
        nnunet_file=next((file for file in files if file.endswith("nnunet.pth")), ""),
        nnunet_trainer=NNUNET_TRAINER,
        versions=f"{LIBRARY} {__version__}, nnU-Net {version('nnunetv2')}, PyTorch {version('torch')}",
        citations=citations,
    )


def _facts(
    description: Mapping[str, Any], training: Mapping[str, Any], config: TopoMAEConfig, epochs: int
) -> list[tuple[str, str]]:
    pretraining, images, geometry = (description[part] for part in ("pretraining", "images", "geometry"))
    cases = ", ".join(f"{number} of {dataset}" for dataset, number in pretraining["cases"].items())
    channels = training["init_args"].get("dataset_json", {}).get("channel_names", {})
    planned = configuration_of(training["init_args"]["plans"], pretraining["configuration"]).configuration
    length = f"{epochs} epochs of {config.iterations_per_epoch} steps, batch {planned.get('batch_size', 'not planned')}"
    return [
        ("images", cases or "their number is not recorded"),
        ("channels", ", ".join(map(str, channels.values())) or str(images["channels"])),
        ("spacing", f"{_sizes(images['spacing_mm'])} mm"),
        ("normalisation", ", ".join(dict.fromkeys(channel["scheme"] for channel in images["normalisation"]))),
        ("plans", f"{pretraining['plans']}, {pretraining['configuration']}, fold {pretraining['fold']}"),
        ("patch", f"{_sizes(geometry['patch_size'])} voxels, of them {_sizes(geometry['token_size'])} a token"),
        ("length", length),
    ]


def _sizes(sizes: Sequence[float]) -> str:
    return " × ".join(f"{size:.3g}" for size in sizes)


def _knobs(config: TopoMAEConfig) -> dict[str, Any]:
    """Of pre-training, that differ from the defaults."""
    return {
        knob.name: value
        for knob in fields(config)
        if (value := getattr(config, knob.name)) != getattr(TopoMAEConfig(), knob.name)
        and knob.metadata["phase"] != FINETUNING
        and knob.name not in NO_FILE_PATH
    }


def _instruments(logging: Mapping[str, Sequence[float]]) -> str:
    """A table of the last values; empty where none was logged."""
    logged = [
        (meaning, *(_last(logging.get(name, ())) for name in names))
        for meaning, names in INSTRUMENTS.items()
        if any(_last(logging.get(name, ())) != NONE for name in names)
    ]
    return markdown_table(("", "ViT", "partner"), logged) if logged else ""


def _last(curve: Sequence[float]) -> str:
    finite = [value for value in curve if isfinite(value)]
    return f"{finite[-1]:.3g}" if finite else NONE
