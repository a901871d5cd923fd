"""The chain of weights that a model comes from, in its checkpoints beside the record of cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from nnunet_topomae.hub import SCHEME, Weights

Provenance = list[dict[str, str]]  # the oldest first; each with `source`, `licence` and `kind`, empty where not known


def recorded_provenance(content: Mapping[str, Any]) -> Provenance:
    """The chain in a checkpoint, or in what was exported of one; empty where it began with new weights."""
    try:
        links = content.get("provenance") or content["init_args"]["provenance"]
        return [{name: str(link.get(name) or "") for name in ("source", "licence", "kind")} for link in links]
    except (KeyError, TypeError, AttributeError):
        return []


def extended(chain: Provenance, weights: Weights, kind: str) -> Provenance:
    """With the file that a training begins with."""
    return [*chain, {"source": weights.source, "licence": weights.licence or "", "kind": kind}]


def without_folders(chain: Sequence[Mapping[str, str]]) -> Provenance:
    """For files that others get: names of folders on this machine are nobody else's."""
    return [
        dict(link) if link["source"].startswith(SCHEME) else {**link, "source": PurePath(link["source"]).name}
        for link in chain
    ]


def in_words(link: Mapping[str, str]) -> str:
    return f"{link['source']} ({link['kind']}; licence: {link['licence'] or 'not named'})"
