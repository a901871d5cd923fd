"""The picture of README's "What it gives", docs/images/few_labels_8.png, from the results that are kept here.

Run without arguments.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from few_labels_report import Results, draw_rows, results_of
from machine import REPOSITORY
from matplotlib.figure import Figure

RESULTS = REPOSITORY / "benchmarks" / "results"
LABELS, SEEDS = 8, range(3)


@dataclass(frozen=True)
class Row:
    """Runs of one arm.

    Attributes:
        title: in the picture.
        file: in `results`.
        arm: as `few_labels.py` names it.
        group: of the file's runs, where it has groups.
        setting: of a run, where the file tells settings apart.
    """

    title: str
    file: str
    arm: str
    group: str | None = None
    setting: str | None = None

    def results(self) -> Results:
        content = json.loads((RESULTS / self.file).read_text())
        runs = (content[self.group] if self.group else content)["runs"]
        wanted = (self.arm, LABELS, self.setting)
        mine = [run for run in runs if (run["arm"], run["labels"], run.get("setting")) == wanted]
        return replace(results_of([run for run in mine if run["seed"] in SEEDS], "report"), meaning=self.title)


FIRST, PLAN, VIT = (f"few_labels_hippocampus{suffix}.json" for suffix in ("", "_8_plan", "_8_vit"))
SCRATCH, PRETRAINED = "B: 8,000 steps of both; from scratch", "E: 2,000 steps, vit_steps 8"
ROWS = (
    Row("nnU-Net", FIRST, "nnunet"),
    Row(
        "nnU-Net's network: ours, from scratch", PLAN, "plan_scratch_no_vit", setting="our schedule, from scratch, 1e-3"
    ),
    Row(
        "nnU-Net's network: ours, pre-trained",
        PLAN,
        "plan_full",
        setting="pre-trained with vit_steps 8, with the ViT, 3e-3",
    ),
    Row("UNETR++ of tiny: ours, from scratch", VIT, "scratch", group=SCRATCH),
    Row("UNETR++ of tiny: pre-trained, without the ViT", VIT, "unetrpp", group=PRETRAINED),
    Row("UNETR++ of tiny: ours, pre-trained", VIT, "full", group=PRETRAINED),
)


def main() -> None:
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    draw_rows(figure, [row.results() for row in ROWS])
    path = REPOSITORY / "docs" / "images" / "few_labels_8.png"
    figure.savefig(path, dpi=120)
    print(path)


if __name__ == "__main__":
    main()
