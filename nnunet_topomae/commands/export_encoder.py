"""Write pre-trained networks for other programs, for nnU-Net's own trainer, and for others to use.

The ViT encoder and its partner without its heads, of a checkpoint of TopoMAEPretrainer, as safetensors, with a JSON
that says how to build them and to prepare images. The network of a plan (partner = plan) is written for nnUNetv2_train
-pretrained_weights, too, as plan_network_nnunet.pth: docs/transfer.md.

README.md beside them is a model card, with a licence and a data statement for you to fill in. Then --push uploads the
folder to the Hugging Face Hub, after a question. No names of cases are written, and no fingerprints unless asked for.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

EXAMPLE = "nnunet-topomae export-encoder checkpoint_final.pth -o encoders"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", type=Path, nargs="?", help="checkpoint_final.pth of a pre-training"
    )
    parser.add_argument("-o", metavar="FOLDER", type=Path, required=True, help="where to write, or what to upload")
    parser.add_argument(
        "--force", action="store_true", help="overwrite files that exist, but for what README.md was filled in with"
    )
    parser.add_argument(
        "--fingerprints",
        action="store_true",
        help="write those of the cases trained on, by which a training tells that it would be validated on one",
    )
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload FOLDER, exported before, to the Hugging Face Hub")
    parser.add_argument("--yes", action="store_true", help="upload without a question")


def run(options: argparse.Namespace) -> None:
    if options.checkpoint is None and options.push is None:
        raise ValueError("name a CHECKPOINT to export, or with --push a repository to upload FOLDER to")
    if options.push is not None and options.push.count("/") != 1:
        raise ValueError(f"--push takes OWNER/NAME, not {options.push}")
    if options.checkpoint is not None:
        _export(options)
    if options.push is not None:
        _push(options)


def _export(options: argparse.Namespace) -> None:
    from nnunet_topomae.export import NNUNET, export_encoders
    from nnunet_topomae.hub import CARD
    from nnunet_topomae.model_card import read_answers
    from nnunet_topomae.networks.partners.plan import NNUNET_TRAINER

    for file in export_encoders(options.checkpoint, options.o, options.force, options.fingerprints):
        print(file)
        if file.name.endswith(NNUNET):  # the last one
            print(
                "\nTo fine-tune with nnU-Net alone (its AdamW; why, docs/transfer.md):\nnnUNetv2_train DATASET "
                f"CONFIGURATION FOLD -tr {NNUNET_TRAINER} -pretrained_weights {shlex.quote(str(file))}"
            )
    missing = read_answers(options.o / CARD).missing
    if missing:
        print(
            f"\n{options.o / CARD} is not finished. Before you pass the folder on, fill in {' and '.join(missing)}. "
            f"Upload:\nnnunet-topomae export-encoder -o {shlex.quote(str(options.o))} --push OWNER/NAME"
        )


def _push(options: argparse.Namespace) -> None:
    from nnunet_topomae.export import finished_export
    from nnunet_topomae.hub import CARD, upload, visibility
    from nnunet_topomae.model_card import REPOSITORY
    from nnunet_topomae.training.provenance import in_words

    description, answers, files = finished_export(options.o)
    past = description["pretraining"]
    seen_by = visibility(options.push)
    print(f"{options.o} to {options.push}, {f'which is {seen_by}' if seen_by else 'a new repository, private'}:")
    for file in files:
        print(f"  {file.name:{max(len(file.name) for file in files)}}  {file.stat().st_size / 1e6:9,.2f} MB")
    print(f"licence {answers.licence}; no names of cases, {'but' if past['cases_seen'] else 'no'} fingerprints")
    for link in past["provenance"]:
        print(f"began with {in_words(link)}")
    if not options.yes and not _agreed():
        print("Nothing was uploaded.")
        return
    card = (options.o / CARD).read_text(encoding="utf-8").replace(REPOSITORY, options.push)
    content = {file.name: file for file in files} | {CARD: card.encode()}
    print(upload(options.push, content, f"Pre-trained on {past['dataset']}"))


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise ValueError("nothing was uploaded: there is no terminal to ask, --yes uploads without a question")
    return input("Upload? [y/N] ").strip().lower() in ("y", "yes")
