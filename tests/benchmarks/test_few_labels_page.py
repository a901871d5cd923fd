"""Tables of the pages are those of the results that are kept, and README has their figures."""

import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import few_labels_page  # noqa: E402


@pytest.mark.parametrize("section", few_labels_page.SECTIONS, ids=lambda section: section[1])
def test_each_table_can_be_computed_again(section: tuple[str, str]):
    page = (REPOSITORY / "docs" / section[0]).read_text()
    begin, end = (f"<!-- {section[1]}:{edge} -->\n" for edge in ("begin", "end"))
    assert page.split(begin)[1].split(end)[0].strip() == few_labels_page.SECTIONS[section]()


def test_the_first_row_is_the_mean_over_classes_cases_and_seeds():
    runs = [few_labels_page.kept_runs()["nnunet", 4, "", seed] for seed in range(3)]
    reported = sorted(runs[0]["cases"])[1::2]
    dice = [measures["Dice"] for run in runs for case in reported for measures in run["cases"][case].values()]
    assert len(dice) == 3 * 30 * 2
    assert f"| 4      | {sum(dice) / len(dice):.3f} ± " in few_labels_page.by_labels()


def test_dice_of_the_main_tables_stands_in_the_readme():
    readme = (REPOSITORY / "README.md").read_text()
    for runs in (few_labels_page.Runs("nnunet_adam"), few_labels_page.OURS):
        assert re.search(rf"\b{runs.results(4).mean('Dice'):.3f}\b", readme)
