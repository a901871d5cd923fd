from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import wilcoxon

from nnunet_topomae.evaluation.classes import Classes
from nnunet_topomae.evaluation.comparison import compare, folder_names, holm
from nnunet_topomae.evaluation.folder import summarise
from nnunet_topomae.evaluation.results import comparison_table
from nnunet_topomae.evaluation.segmentation import MEASURES
from nnunet_topomae.visualization.paired_differences import save_paired_differences

UNITS = {"length": "mm", "volume": "mm³", "": ""}
FIRST = {"liver": [0.5, 0.6, 0.7, 0.8, 0.5, 0.4], "cyst": [0.1, 0.2, math.nan, 0.4, math.nan, 0.3]}
SECOND = {"liver": [0.6, 0.8, 0.9, 0.9, 0.65, 0.45], "cyst": [0.2, 0.2, 0.0, 0.3, math.nan, 0.6]}


def summary(values: dict[str, list[float]]) -> dict:
    """With every measure of a class equal to the number given for a case."""
    cases = [
        {
            "reference_file": f"gt/{case}.nii.gz",
            "prediction_file": f"predictions/{case}.nii.gz",
            "metrics": {
                label: dict.fromkeys(MEASURES, of_class[case]) | {"n_pred": 1, "n_ref": 1}
                for label, of_class in enumerate(values.values(), start=1)
            },
        }
        for case in range(len(next(iter(values.values()))))
    ]
    return summarise(cases, Classes(dict(enumerate(values, start=1))), UNITS)


@pytest.fixture
def compared() -> dict:
    return {
        row.name: row for row in compare({"first": summary(FIRST), "second": summary(SECOND)}) if row.measure == "Dice"
    }


def test_differences_are_paired_by_case(compared):
    liver = compared["liver"]
    assert (liver.baseline, liver.other) == ("first", "second")
    assert np.allclose(liver.differences, [0.1, 0.2, 0.2, 0.1, 0.15, 0.05])
    assert liver.mean == pytest.approx(0.8 / 6)
    assert liver.p == wilcoxon(SECOND["liver"], FIRST["liver"]).pvalue == 2 * 0.5**6


def test_a_case_that_is_defined_in_one_folder_alone_is_named(compared):
    cyst = compared["cyst"]
    assert cyst.cases == ["0.nii.gz", "1.nii.gz", "3.nii.gz", "5.nii.gz"]
    assert cyst.left_out == ["2.nii.gz"]
    assert np.allclose(cyst.differences, [0.1, 0, -0.1, 0.3])


def test_the_mean_is_over_classes_that_both_define(compared):
    expected = [(0.1 + 0.1) / 2, (0.2 + 0) / 2, 0.2, (0.1 - 0.1) / 2, 0.15, (0.05 + 0.3) / 2]
    assert np.allclose(compared["mean"].differences, expected)


def test_p_values_are_corrected_for_all_classes_and_folders():
    rows = compare({"a": summary(FIRST), "b": summary(SECOND), "c": summary(FIRST)})
    for measure in ("Dice", "HD95"):
        of_measure = [row for row in rows if row.measure == measure]
        assert len(of_measure) == 6
        assert [row.p_holm for row in of_measure] == holm([row.p for row in of_measure])
        assert all(row.p_holm >= row.p for row in of_measure)


def test_holm_is_that_of_his_example():
    """Four hypotheses; worked by hand: 4·0.005, 3·0.01, 2·0.03, and not less than the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, math.nan, 0.7])[0] == 1 and math.isnan(holm([0.6, math.nan])[1])
    assert holm([]) == []


def test_equal_folders_differ_by_nothing():
    for row in compare({"first": summary(FIRST), "same": summary(FIRST)}):
        assert row.mean == row.low == row.high == 0 and row.p == row.p_holm == 1 and not row.left_out


def test_an_interval_covers_the_mean_in_19_of_20_cases():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        differences = rng.exponential(size=40) - 1 + 0.3
        zero, shifted = summary({"organ": [0.0] * 40}), summary({"organ": differences.tolist()})
        row = compare({"zero": zero, "shifted": shifted})[0]
        covered += row.low <= 0.3 <= row.high
    assert 52 <= covered <= 60


def test_one_case_has_no_interval():
    (row, *_) = compare({"a": summary({"organ": [0.5]}), "b": summary({"organ": [0.7]})})
    assert row.mean == pytest.approx(0.2) and math.isnan(row.low) and row.p == 1


def test_other_cases_are_refused():
    shorter = summary({name: values[:4] for name, values in SECOND.items()})
    with pytest.raises(ValueError, match="same cases: 4.nii.gz, 5.nii.gz"):
        compare({"first": summary(FIRST), "second": shorter})


def test_table_and_picture(tmp_path):
    absent = {"nowhere": [math.nan] * 6}
    rows = compare({"first": summary(FIRST | absent), "second": summary(SECOND | absent)})
    table = comparison_table(rows, ["Dice"])
    assert "+0.1333" in table and "second − first" in table and "nowhere" not in table
    save_paired_differences(tmp_path / "picture.png", rows, dict.fromkeys(MEASURES, ""))
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    json.dumps([row.as_row() for row in rows])


def test_folders_are_called_by_what_tells_them_apart():
    assert folder_names([Path("x/a"), Path("x/b")]) == ["a", "b"]
    assert folder_names([Path("x/a/validation"), Path("x/b/validation")]) == ["a/validation", "b/validation"]
    with pytest.raises(ValueError, match="named twice"):
        folder_names([Path("x/a"), Path("x/../x/a")])
