import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from few_labels_picture import AT_EIGHT, BY_LABELS, LABELS, Row  # noqa: E402

DRAWN = [(row, 8) for row in AT_EIGHT] + [(row, labels) for row in BY_LABELS for labels in LABELS]


@pytest.mark.parametrize(("row", "labels"), DRAWN, ids=lambda value: getattr(value, "title", None))
def test_readme_says_what_the_results_say(row: Row, labels: int):
    dice = row.results(labels).of_seeds("Dice")
    assert len(dice) == 3
    assert f"{dice.mean():.3f} ± {dice.std(ddof=1):.3f}" in (REPOSITORY / "README.md").read_text()
