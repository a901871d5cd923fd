"""Is a training all right? What its log warns of, why it stopped, and what knows less than nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np

from nnunet_topomae.monitoring.instruments import LABEL_SHARE, PULLING, TOKEN_STD, is_dead
from nnunet_topomae.report.runs import FINISHED, NETWORKS, Run
from nnunet_topomae.report.words import counted, text

RECENT = timedelta(minutes=15)  # a log that was written since may be of a training that goes on
LITTLE = 0.01  # part of the labels
WEAK = 0.03  # of the pull of reconstruction


def state(run: Run) -> str:
    """In a few words."""
    planned = run.debug.get("num_epochs")
    epochs = f"{run.epochs}{f' of {text(planned)}' if planned else ''} epochs"
    if _final_is_damaged(run):
        return f"{FINISHED} damaged, {epochs}"
    if not run.checkpoint:
        return "no checkpoint that can be read"
    return f"{'finished' if run.checkpoint == FINISHED else 'not finished'}, {epochs}"


def _final_is_damaged(run: Run) -> bool:
    return run.checkpoint != FINISHED and (run.folder / FINISHED).is_file()


def findings(run: Run, now: datetime) -> list[str]:
    """Sentences about what is not as it should be, the gravest first; none where all is right."""
    return [*_end(run, now), *_losses(run), *_worse_than_trivial(run), *_never_found(run), *run.log.warnings]


def _end(run: Run, now: datetime) -> Iterator[str]:
    log, cases = run.log, run.validation.cases
    if _final_is_damaged(run):
        yield f"{FINISHED} cannot be read, so nothing can be predicted with it."
    elif run.checkpoint != FINISHED and (run.checkpoint or not cases):  # not where it was only deleted
        if log.written is None:
            yield f"It did not end: {state(run)}, and no log says why."
        elif now - log.written < RECENT:
            yield f"It may be running: {state(run)}, its log was written at {log.written:%H:%M}, “{log.last}”."
        else:
            yield (
                f"It stopped: {state(run)}. Its log ends on {log.written:%Y-%m-%d at %H:%M} with “{log.last}”; "
                "nnUNetv2_train with --c goes on from its last checkpoint."
            )
    elif run.checkpoint and not cases:
        yield "Trained to its end and not validated: nnUNetv2_train with --val does that."
    if run.fold == "all" and run.validation.files:
        yield "Fold all is validated on the cases that it was trained on: its Dice says nothing about others."


def _losses(run: Run) -> Iterator[str]:
    for curve, name in {"train_losses": "training", "val_losses": "validation"}.items():
        losses = run.curve(curve)
        if len(losses) and not np.isfinite(losses[-1]):
            since = max(np.flatnonzero(np.isfinite(losses)), default=-1) + 2
            yield f"The {name} loss has become {losses[-1]:g}, from epoch {since} on."
    losses = run.curve("train_losses")
    if len(losses) > 1 and losses[-1] >= losses[0]:
        yield f"The training loss has not fallen: {losses[0]:.3g} at first, {losses[-1]:.3g} at last."


def _worse_than_trivial(run: Run) -> Iterator[str]:
    for key, network in NETWORKS.items():
        if (ratio := _last(run, f"error_over_harmonic_{key}")) >= 1:
            yield (
                f"The {network} fills hidden voxels no better than smoothing from their surroundings does: its error "
                f"is {ratio:.3g} times that of harmonic inpainting."
            )
        if (ratio := _last(run, f"points_over_constant_{key}")) >= 1:
            yield (
                f"The {network} places crops no better than one answer for all would: its error is {ratio:.3g} times "
                "as large."
            )
        for term in PULLING:
            if (strength := _last(run, f"{term}_pull_{key}")) < WEAK:
                yield (
                    f"The {network} hardly feels the loss of {term}: it pulls at the encoder {strength:.2g} times as "
                    f"strongly as reconstruction does. NNUNET_TOPOMAE_WEIGHT_{term.upper()} can be raised, or set to 0."
                )
    if is_dead(spread := _last(run, TOKEN_STD)):
        yield f"The ViT says the same everywhere: its tokens vary by {spread:.2g}, in health by 0.5 to 0.8."
    if (share := _last(run, LABEL_SHARE)) < LITTLE:
        yield f"The ViT decides {share:.1%} of the labels: the segmentation is its partner's."


def _last(run: Run, name: str) -> float:
    """Last value that was read; NaN, which compares with nothing, without one."""
    values = run.curve(name)
    values = values[np.isfinite(values)]
    return float(values[-1]) if len(values) else float("nan")


def _never_found(run: Run) -> Iterator[str]:
    dice: dict[str, list[float]] = {}
    for case in run.validation.files:
        for key, values in run.validation.cases[case].items():
            dice.setdefault(run.class_names.get(key, key), []).append(values.get("Dice", float("nan")))
    defined = {name: [value for value in values if np.isfinite(value)] for name, values in dice.items()}
    for name, scores in defined.items():
        if scores and not any(scores):
            yield f"{name} is never found: Dice 0 in all of {counted(len(scores))}."
    if run.validation.files and not any(defined.values()):
        yield f"Dice is nowhere defined: {counted(len(run.validation.files))}, no class in reference or prediction."
