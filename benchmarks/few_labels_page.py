"""The picture and tables on few labels in docs, from the results in benchmarks/results.

Run without arguments. A test compares the tables with what stands in the pages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from few_labels_report import Results, draw_lines, read_runs, results_of, spread
from machine import REPOSITORY, replace_section
from matplotlib.figure import Figure

from nnunet_topomae.visualization.tables import markdown_table

KEPT = REPOSITORY / "benchmarks" / "results" / "few_labels_hippocampus.csv.gz"
REPORTED, OTHERS = "report", "choose"  # halves of the validation cases
OTHER_CASES = "Dice, other 30 cases"


@dataclass(frozen=True)
class Runs:
    """Runs of one arm of `few_labels.py`.

    Attributes:
        arm: its name there, and, after a colon, what differed from the defaults; runs of several such (|) count alike.
        title: in a picture.
        seeds: how many of them, from 0 on.
    """

    arm: str
    title: str = ""
    seeds: int = 3

    def results(self, labels: int, half: str = REPORTED) -> Results:
        runs = [kept_runs()[key] for key in self._keys(labels)]
        return replace(results_of(runs, half), meaning=self.title)

    def kept(self, labels: int) -> Runs:
        """As many of them as there are."""
        return replace(self, seeds=sum(key in kept_runs() for key in self._keys(labels)))

    def _keys(self, labels: int) -> list[tuple[str, int, str, int]]:
        arm, _, settings = self.arm.partition(": ")
        return [(arm, labels, setting, seed) for setting in settings.split(" | ") for seed in range(self.seeds)]


@cache
def kept_runs() -> dict[tuple[str, int, str, int], dict]:
    return {(run["arm"], run["labels"], run["setting"], run["seed"]): run for run in read_runs(KEPT)}


NNUNET, OURS = Runs("nnunet", "nnU-Net"), Runs("plan_full", "nnU-Net's network: ours, pre-trained")
LABELS = (4, 8, 16, 40, 140)
AT_EIGHT = {
    "nnU-Net": NNUNET,
    "nnU-Net with its AdamW (`nnUNetTrainerAdam1en3`)": Runs("nnunet_adam"),
    "nnU-Net's own network, our fine-tuning, from scratch": Runs("plan_scratch_no_vit: 1e-3"),
    "the same pre-trained, without the ViT (`fusion = partner_only`)": Runs("plan_full_no_vit"),
    "the same pre-trained, with the ViT": OURS,
    "UNETR++ of `tiny`, a ninth of the computing a step, from scratch": Runs("scratch"),
    "UNETR++ of `tiny`, pre-trained, without the ViT": Runs("unetrpp"),
    "UNETR++ of `tiny`, pre-trained, with the ViT": Runs("full"),
}
LARGEST = "steps, largest components"
LATER = f"points in mm, 2,400 {LARGEST}"
ADAM_LATER, OURS_LATER = f"nnunet_adam: 5,400 {LARGEST}", f"plan_full: {LATER}"
EQUAL = {"nnU-Net's AdamW": ADAM_LATER, "pseudo-labels": f"pseudo_labels: 2,400 {LARGEST}", "ours": OURS_LATER}
EQUAL_SEEDS = ((4, 2), (8, 1), (16, 1), (40, 1))
Difference = tuple[str, int, int, str, str]  # what, labels, seeds, the runs and what is taken off them
NO_TERM, TWO_RUNS = "plan_full: weight_topology 0", "scratch: second machine | second machine, again"
DIFFERENCES: list[Difference] = [
    ("ours − nnU-Net with AdamW", 4, 3, "plan_full", "nnunet_adam"),
    ("ours − nnU-Net with AdamW", 8, 3, "plan_full", "nnunet_adam"),
    ("ours − nnU-Net with AdamW", 40, 2, "plan_full", "nnunet_adam"),
    ("ours − our fine-tuning from scratch, no ViT", 4, 2, "plan_full", "plan_scratch_no_vit: 1e-3"),
    ("ours − our fine-tuning from scratch, no ViT", 8, 3, "plan_full", "plan_scratch_no_vit: 1e-3"),
    ("ours − the same with the ViT from scratch", 8, 3, "plan_full", "plan_scratch"),
    ("ours − the same with the ViT from scratch", 40, 3, "plan_full", "plan_scratch"),
    ("with − without the ViT", 4, 3, "plan_full", "plan_full_no_vit"),
    ("with − without the ViT", 8, 3, "plan_full", "plan_full_no_vit"),
    ("with − without the ViT", 16, 2, "plan_full", "plan_full_no_vit"),
    ("with − without the ViT", 40, 2, "plan_full", "plan_full_no_vit"),
    ("with − without the ViT, other pre-trainings", 8, 2, NO_TERM, "plan_full_no_vit: weight_topology 0"),
    ("full method − reconstruction alone", 8, 3, "plan_full", "plan_reconstruction"),
    ("full method − reconstruction alone", 40, 3, "plan_full", "plan_reconstruction"),
    ("with − without the topological term", 8, 2, "plan_full: a pre-training a seed", NO_TERM),
    ("`finetune_weight_topology` 0.1 − 0", 8, 2, f"{NO_TERM}, finetune_weight_topology 0.1", NO_TERM),
    (
        "the same, UNETR++ from scratch (6 runs each)",
        *(8, 3, "scratch: finetune_weight_topology 0.1 | finetune_weight_topology 0.1, again", TWO_RUNS),
    ),
    ("UNETR++: pre-trained with the ViT − from scratch", 8, 3, "full", "scratch"),
    ("2,400 steps: ours without the term − AdamW", 4, 2, f"{NO_TERM}, 2,400 steps", "nnunet_adam: 2,400 steps"),
    *(("equal computing: ours − AdamW*", labels, seeds, OURS_LATER, ADAM_LATER) for labels, seeds in EQUAL_SEEDS),
]
SECOND, SCANNER = "full: second pre-training", "another scanner"
TRIED: list[Difference] = [
    ("fusion `token_grid` − `stages`", 8, 3, "token_grid", "full"),
    ("fusion `bottleneck` − `stages`", 8, 3, "bottleneck", "full"),
    ("fusion `cross_attention` − `stages`", 8, 3, "cross_attention", "full"),
    (
        "`topology_windows` 16 − whole crop",
        *(8, 3, "full: vit_steps 1, topology_windows 16", "full: vit_steps 1, three pre-trainings"),
    ),
    ("without the topological term", 8, 3, "full: weight_topology 0", "full"),
    ("a second pre-training, the same settings", 8, 3, SECOND, "full"),
    ("topology of whole reconstructions", 8, 3, "full: topology of whole reconstructions", SECOND),
    ("the ViT alone asked for half of what is hidden", 8, 3, "full: half of what is hidden", SECOND),
    ("intensity augmentation of the input", 8, 3, "full: intensity augmentation", "full"),
    ("learned fill of masked voxels, no ViT", 8, 3, "unetrpp: vit_steps 1, learned fill", "unetrpp: vit_steps 1"),
    ("`vit_steps` 1 − 8", 8, 3, "full: vit_steps 1", "full"),
    ("`vit_steps` 4 − 8", 8, 3, "full: vit_steps 4", "full"),
    ("8,000 steps of both, `vit_steps` 1 − 2,000", 8, 3, "full: 8,000 steps", "full"),
    ("the same, no ViT", 8, 3, "unetrpp: 8,000 steps", "unetrpp"),
    ("`small`: with − without the ViT", 8, 1, "full: small", "unetrpp: small"),
    ("`finetune_weight_topology` 1 − 0 (3 and 6 runs)", 8, 3, "scratch: finetune_weight_topology 1", TWO_RUNS),
    ("2,400 steps, UNETR++: ours − from scratch", 8, 3, "full: 2,400 steps", "scratch: 2,400 steps"),
    ("plan: `vit_steps` 1 − 8", 8, 3, "plan_full: vit_steps 1", "plan_full"),
    ("plan: `vit_steps` 4 − 8", 8, 3, "plan_full: vit_steps 4", "plan_full"),
    ("plan: `base`, 1,000 steps − `tiny`", 8, 1, "plan_full: base, 1,000 steps", "plan_full"),
    ("plan: `drop_path_rate` 0.1 in fine-tuning", 8, 2, f"{NO_TERM}, drop_path_rate 0.1", NO_TERM),
    ("plan: `finetune_lr` 6e-3 − 3e-3", 8, 2, f"{NO_TERM}, 6e-3", NO_TERM),
    ("plan: `finetune_lr` 1e-3 − 3e-3, 2,400 steps", 4, 2, f"{NO_TERM}, 2,400 steps, 1e-3", f"{NO_TERM}, 2,400 steps"),
    (
        "plan: SparK − zero, 1,000 steps, no ViT",
        *(8, 1, "plan_reconstruction_no_vit: 1,000 steps, SparK", "plan_reconstruction_no_vit: 1,000 steps"),
    ),
    ("plan: the ViT's features − their mean in their place", 8, 3, "plan_full", "plan_full: mean of the ViT"),
    ("plan: the ViT's features − their mean in their place", 40, 3, "plan_full", "plan_full: mean of the ViT"),
    ("plan: a pre-training for each seed − nnU-Net", 8, 3, "plan_full: a pre-training a seed", "nnunet"),
    ("plan: exported, by AdamW − by ours, no ViT", 8, 2, "plan_exported_adam", "plan_full_no_vit: weight_topology 0"),
    ("plan: exported, by SGD − by AdamW", 8, 1, "plan_exported", "plan_exported_adam"),
    ("plan: with − without the ViT, 2,400 steps*", 4, 2, f"plan_full: {LATER}", f"plan_full_no_vit: {LATER}"),
    (
        "pseudo-labels − their teachers, AdamW with 5,400*",
        *(4, 1, f"pseudo_labels: 2,400 {LARGEST}", f"nnunet_adam: 5,400 {LARGEST}"),
    ),
    (
        "plan: 2,400 steps more, a teacher − labels alone*",
        *(4, 2, f"more_mean_teacher: {LATER}", f"more_labels: {LATER}"),
    ),
    (
        "plan: another scanner, 2,400 steps − AdamW with 5,100*",
        *(4, 1, f"plan_full_no_vit: {SCANNER}, 2,400 {LARGEST}", f"nnunet_adam: {SCANNER}, 5,100 {LARGEST}"),
    ),
    (
        "the same − our schedule from scratch with 5,100*",
        *(4, 1, f"plan_full_no_vit: {SCANNER}, 2,400 {LARGEST}", f"plan_scratch_no_vit: {SCANNER}, 5,100 {LARGEST}"),
    ),
    (
        "another scanner: AdamW with 5,100 under DA5 − without*",
        *(4, 1, *(f"{arm}: {SCANNER}, 5,100 {LARGEST}" for arm in ("nnunet_da5", "nnunet_adam"))),
    ),
    (
        "plan: under DA5, 2,400 steps − AdamW, under it, too*",
        *(4, 1, f"plan_full_da5: {SCANNER}, 2,400 {LARGEST}", f"nnunet_da5: {SCANNER}, 5,100 {LARGEST}"),
    ),
    (
        "plan: one scanner, under DA5 − without, 2,400 steps*",
        4,
        1,
        f"plan_full_da5: {LATER}",
        f"plan_full_no_vit: {LATER}",
    ),
    (
        "plan: another scanner, 2,400 more, a teacher − labels*",
        *(4, 1, *(f"{arm}: {SCANNER}, 2,400 {LARGEST}" for arm in ("more_mean_teacher", "more_labels"))),
    ),
]


def at_equal_computing() -> str:
    """README's: Dice of each arm, as many seeds as were run; distances of all, in the same order."""
    rows = []
    for labels, _ in EQUAL_SEEDS:
        kept = {title: Runs(arm).kept(labels) for title, arm in EQUAL.items()}
        results = {title: runs.results(labels) for title, runs in kept.items() if runs.seeds}
        dice = [spread(results[title].of_seeds("Dice"), 3) if title in results else "" for title in EQUAL]
        distances = [
            ", ".join(f"{result.mean(name):.{digits}f}" for result in results.values())
            for name, digits in (("HD95", 1), ("NSD_1mm", 3))
        ]
        seeds = ", ".join(str(len(result.seeds)) for result in results.values())
        rows.append([labels, *dice, *distances, seeds])
    return markdown_table(["labels", *EQUAL, "HD95 (mm)", "NSD 1 mm", "seeds"], rows)


def by_labels() -> str:
    """A row a number of labels: nnU-Net, ours, and their difference on both halves."""
    head = ["labels", "nnU-Net: Dice", "ours: Dice", "difference", OTHER_CASES, "HD95 (mm)", "Betti error"]
    rows = []
    for labels in LABELS:
        both = theirs, ours = NNUNET.results(labels), OURS.results(labels)
        differences = [_minus(OURS, NNUNET, labels, "Dice", 3, half) for half in (REPORTED, OTHERS)]
        shape = [
            f"{theirs.mean(name):.{digits}f} → {ours.mean(name):.{digits}f}"
            for name, digits in (("HD95", 1), ("betti_error", 2))
        ]
        rows.append([labels, *(spread(result.of_seeds("Dice"), 3) for result in both), *differences, *shape])
    return markdown_table(head, rows)


def at_eight() -> str:
    rows = []
    for title, runs in AT_EIGHT.items():
        result = runs.results(8)
        dice = [spread(half.of_seeds("Dice"), 3) for half in (result, runs.results(8, OTHERS))]
        rows.append([title, *dice, f"{result.mean('HD95'):.1f}", f"{result.mean('betti_error'):.2f}"])
    return markdown_table(["8 labels", "Dice", OTHER_CASES, "HD95 (mm)", "Betti error"], rows)


def differences(chosen: Sequence[Difference]) -> str:
    """Of each pair on the reported cases, and of Dice on the others, too."""
    rows = []
    for what, labels, seeds, *arms in chosen:
        pair = [Runs(arm, seeds=seeds) for arm in arms]
        cells = [_minus(*pair, labels, "Dice", 3, half) for half in (REPORTED, OTHERS)]
        cells += [_minus(*pair, labels, name, digits) for name, digits in (("HD95", 1), ("betti_error", 2))]
        rows.append([what, labels, seeds, *cells])
    return markdown_table(["", "labels", "seeds", "Dice", OTHER_CASES, "HD95 (mm)", "Betti error"], rows)


def _minus(mine: Runs, theirs: Runs, labels: int, metric: str, digits: int, half: str = REPORTED) -> str:
    mean, error = mine.results(labels, half).minus(theirs.results(labels, half), metric)
    return "–" if math.isnan(mean) else f"{mean:+.{digits}f} ± {error:.{digits}f}".replace("-", "−")


SECTIONS = {
    ("../README.md", "equal-computing"): at_equal_computing,
    ("benchmarks.md", "few-labels"): by_labels,
    ("benchmarks.md", "eight-labels"): at_eight,
    ("benchmarks.md", "differences"): lambda: differences(DIFFERENCES),
    ("experiments.md", "tried"): lambda: differences(TRIED),
}


def main() -> None:
    docs: Path = REPOSITORY / "docs"
    lines = Figure(figsize=(8, 3.2), layout="constrained")
    draw_lines(lines, {(runs.title, labels): runs.results(labels) for runs in (NNUNET, OURS) for labels in LABELS})
    lines.savefig(docs / "images" / "few_labels_plan.png", dpi=120)
    for (page, name), written in SECTIONS.items():
        replace_section(docs / page, name, written())


if __name__ == "__main__":
    main()
