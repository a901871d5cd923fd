"""The pictures of README's "What it gives", docs/images/few_labels_*.png, from the results that are kept here.

Run without arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from few_labels_compare import select
from few_labels_report import Results, draw_lines, draw_rows, results_of
from machine import REPOSITORY
from matplotlib.figure import Figure

RESULTS = REPOSITORY / "benchmarks" / "results"
SEEDS = range(3)


@dataclass(frozen=True)
class Row:
    """Runs of one arm.

    Attributes:
        title: in the picture.
        file: in `results`.
        arm: as `few_labels.py` names it.
        setting: where the file tells settings apart.
    """

    title: str
    file: str
    arm: str
    setting: str = ""

    def results(self, labels: int) -> Results:
        runs = [run for run in select(RESULTS / self.file, self.arm, labels, self.setting) if run["seed"] in SEEDS]
        return replace(results_of(runs, "report"), meaning=self.title)


FIRST, PLAN, VIT = (f"few_labels_hippocampus{suffix}.json" for suffix in ("", "_8_plan", "_8_vit"))
SCRATCH, PRETRAINED = "B: 8,000 steps of both; from scratch", "E: 2,000 steps, vit_steps 8"
NNUNET = Row("nnU-Net", FIRST, "nnunet")
OURS = Row(
    "nnU-Net's network: ours, pre-trained",
    PLAN,
    "plan_full",
    setting="pre-trained with vit_steps 8, with the ViT, 3e-3",
)
BY_LABELS, LABELS = (NNUNET, OURS), (4, 8, 16, 40, 140)
AT_EIGHT = (
    NNUNET,
    Row(
        "nnU-Net with AdamW",
        PLAN,
        "nnunet_adam",
        setting="from scratch, on the machine of the pre-trainings without the topological term",
    ),
    Row(
        "nnU-Net's network: ours, from scratch", PLAN, "plan_scratch_no_vit", setting="our schedule, from scratch, 1e-3"
    ),
    Row(
        "nnU-Net's network: pre-trained, without the ViT",
        PLAN,
        "plan_full_no_vit",
        setting="pre-trained with vit_steps 8, ViT left out, 3e-3",
    ),
    OURS,
    Row("UNETR++ of tiny: ours, from scratch", VIT, "scratch", setting=SCRATCH),
    Row("UNETR++ of tiny: pre-trained, without the ViT", VIT, "unetrpp", setting=PRETRAINED),
    Row("UNETR++ of tiny: ours, pre-trained", VIT, "full", setting=PRETRAINED),
)


def main() -> None:
    images = REPOSITORY / "docs" / "images"
    rows = Figure(figsize=(8, 3.1), layout="constrained")
    draw_rows(rows, [row.results(8) for row in AT_EIGHT])
    rows.savefig(images / "few_labels_8.png", dpi=120)
    lines = Figure(figsize=(8, 3.2), layout="constrained")
    draw_lines(lines, {(row.title, labels): row.results(labels) for row in BY_LABELS for labels in LABELS})
    lines.savefig(images / "few_labels_plan.png", dpi=120)


if __name__ == "__main__":
    main()
