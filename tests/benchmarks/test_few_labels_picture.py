import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from few_labels_picture import ROWS, Row  # noqa: E402


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
def test_readme_says_what_the_results_say(row: Row):
    dice = row.results().of_seeds("Dice")
    assert len(dice) == 3
    assert f"{dice.mean():.3f} ± {dice.std(ddof=1):.3f}" in (REPOSITORY / "README.md").read_text()
