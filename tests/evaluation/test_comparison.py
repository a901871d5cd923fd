from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata, wilcoxon

from nnunet_topomae.evaluation.classes import Classes
from nnunet_topomae.evaluation.comparison import compare, folder_names, holm, signed_rank_p
from nnunet_topomae.evaluation.folder import summarise
from nnunet_topomae.evaluation.results import comparison_notes, comparison_table
from nnunet_topomae.evaluation.segmentation import MEASURES
from nnunet_topomae.visualization.paired_differences import UNDECIDED, colour_of, save_paired_differences
from nnunet_topomae.visualization.palette import BLUE, VERMILION

UNITS = {"length": "mm", "volume": "mm³", "": ""}
FIRST = {"liver": [0.5, 0.6, 0.7, 0.8, 0.5, 0.4], "cyst": [0.1, 0.2, math.nan, 0.4, math.nan, 0.3]}
SECOND = {"liver": [0.6, 0.8, 0.9, 0.9, 0.65, 0.45], "cyst": [0.2, 0.2, 0.0, 0.3, math.nan, 0.6]}


def summary(values: dict[str, list[float]]) -> dict:
    """With every measure of a class equal to the number given for a case; NaN where neither mask has a voxel."""
    cases = [
        {
            "reference_file": f"gt/{case}.nii.gz",
            "prediction_file": f"predictions/{case}.nii.gz",
            "metrics": {
                label: dict.fromkeys(MEASURES, of_class[case])
                | dict.fromkeys(["n_pred", "n_ref"], int(not math.isnan(of_class[case])))
                for label, of_class in enumerate(values.values(), start=1)
            },
        }
        for case in range(len(next(iter(values.values()))))
    ]
    return summarise(cases, Classes(dict(enumerate(values, start=1))), UNITS)


def test_differences_are_paired_by_case_where_both_define_the_class():
    rows = compare({"first": summary(FIRST), "second": summary(SECOND)})
    liver, cyst, mean, _ = (row for row in rows if row.measure == "Dice")
    assert (liver.name, liver.baseline, liver.other) == ("liver", "first", "second")
    assert np.allclose(liver.differences, [0.1, 0.2, 0.2, 0.1, 0.15, 0.05])
    assert liver.mean == pytest.approx(0.8 / 6) and liver.p == liver.p_least == 2 * 0.5**6
    assert cyst.cases == ["0.nii.gz", "1.nii.gz", "3.nii.gz", "5.nii.gz"] and cyst.left_out == ["2.nii.gz"]
    assert np.allclose(cyst.differences, [0.1, 0, -0.1, 0.3])
    of_both = [(0.1 + 0.1) / 2, (0.2 + 0) / 2, 0.2, (0.1 - 0.1) / 2, 0.15, (0.05 + 0.3) / 2]
    assert mean.name == "mean" and np.allclose(mean.differences, of_both)


def test_p_values_are_corrected_for_all_classes_and_folders():
    rows = compare({"a": summary(FIRST), "b": summary(SECOND), "c": summary(FIRST)})
    for measure in ("Dice", "HD95"):
        of_measure = [row for row in rows if row.measure == measure]
        assert len(of_measure) == 2 * 3 + 1  # two classes and their mean; the first has invented a cyst
        assert [row.p_holm for row in of_measure] == holm([row.p for row in of_measure])
        assert all(row.p_holm >= row.p for row in of_measure)


def test_holm_is_that_of_his_example():
    """Four hypotheses; worked by hand: 4·0.005, 3·0.01, 2·0.03, and not less than the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, math.nan, 0.7])[0] == 1 and math.isnan(holm([0.6, math.nan])[1])
    assert holm([]) == []


def test_equal_folders_differ_by_nothing():
    for row in compare({"first": summary(FIRST), "same": summary(FIRST)}):
        assert row.mean == 0 and row.p == row.p_least == row.p_holm == 1 and not row.left_out and not row.is_decided


def test_an_interval_covers_the_mean_in_19_of_20_cases():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        differences = rng.exponential(size=40) - 1 + 0.3
        zero, shifted = summary({"organ": [0.0] * 40}), summary({"organ": differences.tolist()})
        row = compare({"zero": zero, "shifted": shifted})[0]
        covered += row.low <= 0.3 <= row.high
    assert 52 <= covered <= 60


@pytest.mark.parametrize("num_cases", [1, 2, 7, 8])
def test_few_cases_have_no_interval(num_cases):
    """Of 60 intervals of two cases 31 covered the mean."""
    organ = np.linspace(0.5, 0.7, num_cases).tolist()
    row, *_ = compare({"a": summary({"organ": [0.5] * num_cases}), "b": summary({"organ": organ})})
    assert math.isnan(row.low) == math.isnan(row.high) == (num_cases < 8)


def by_all_flips(differences: list[float]) -> float:
    """The share of the flips of signs whose sum of ranks is at least as far from its mean."""
    differing = np.array([each for each in differences if each])
    ranks = rankdata(abs(differing))
    sums = np.array([ranks @ signs for signs in product((-1, 1), repeat=len(ranks))])
    return float(np.mean(abs(sums) >= abs(ranks @ np.sign(differing))))


@pytest.mark.parametrize(
    "differences",
    [
        [0.0] * 11 + [0.1, 0.2, 0.3, 0.4, 0.5],  # 0.0253 by SciPy's approximation; no p below 0.0625 is possible
        [0.0] * 13 + [-0.1],
        [1, 1, 1, -1, 2, 2, -3, 3, 0, 4, 4, 4],
        [5, -5, 5, -5],
        [-1, -2, -3, 4, 5, 6, 7, 8, -9, 10, 11, 12, 13],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, -2, 0, 0, 0, 0, 0, 0],
    ],
)
def test_p_is_exact_with_ties_and_zeros(differences):
    assert signed_rank_p(np.array(differences, float)) == pytest.approx(by_all_flips(differences), rel=1e-12)


@pytest.mark.parametrize("num_cases", [14, 50, 300])
def test_p_is_that_of_scipy_without_ties_and_zeros(num_cases):
    rng = np.random.default_rng(num_cases)
    differences = rng.normal(0.1, 1, num_cases)
    with_zeros = np.concatenate([differences, np.zeros(20)])
    expected = wilcoxon(differences, method="exact").pvalue
    assert signed_rank_p(with_zeros) == signed_rank_p(differences) == pytest.approx(expected, rel=1e-9)


def test_rounding_neither_makes_a_difference_nor_breaks_a_tie():
    """0.1 + 0.2 is not 0.3 to the last digit."""
    zero = {"a": [0.1] * 8, "b": [0.2] * 8}
    rows = compare({"first": summary(zero), "second": summary({"a": [0.3] * 8, "b": [0.2 - 0.2] * 8})})
    mean = next(row for row in rows if row.label == "mean")
    assert not mean.differences.any() and mean.p == 1
    tied = np.array([0.3 - 0.2, 0.8 - 0.7, 0.1, 0.2 - 0.3, 0.4])
    assert len(set(abs(tied))) > 2 and signed_rank_p(tied) == by_all_flips([1, 1, 1, -1, 4])


@pytest.mark.parametrize(("num_differ", "least"), [(0, 1), (1, 1), (5, 0.0625), (6, 0.03125)])
def test_the_least_possible_p_stands_beside_one_that_cannot_be_small(num_differ, least):
    zero, other = [0.5] * 16, [0.5 + 0.01 * n for n in range(num_differ, 0, -1)] + [0.5] * (16 - num_differ)
    rows = compare({"a": summary({"organ": zero}), "b": summary({"organ": other})})
    assert rows[0].p == rows[0].p_least == least
    assert ("least possible" in comparison_table(rows, ["Dice"])) == (least > 0.05)


NAN = math.nan
INVENTING = {"organ": [0.8] * 8, "tumour": [0.6, 0.6, 0.6, 0.6, 0, 0, 0, 0]}
CAREFUL = {"organ": [0.8] * 8, "tumour": [0.6, 0.6, 0.6, 0.6, NAN, NAN, NAN, NAN]}


def test_inventions_are_counted_and_have_a_row_of_their_own():
    """The mean over classes that both have sees nothing of four tumours that one folder has invented."""
    rows = compare({"careful": summary(CAREFUL), "inventing": summary(INVENTING)})
    dice = {row.label: row for row in rows if row.measure == "Dice"}
    assert dice["mean"].mean == 0 and dice["mean"].p == 1 and len(dice["mean"].left_out) == 4
    with_inventions = dice["mean_with_inventions"]
    # 1 for a tumour that was rightly left out, 0 for an invented one, beside an organ of 0.8 in both
    assert np.allclose(with_inventions.differences, [0] * 4 + [(0.8 + 0) / 2 - (0.8 + 1) / 2] * 4)
    assert with_inventions.p == 0.125 == with_inventions.p_least and not with_inventions.left_out
    table = comparison_table(rows, ["Dice"])
    assert "mean with inventions" in table and "-0.2500" in table
    assert "best value" in comparison_notes(rows)
    distances = next(row for row in rows if row.measure == "HD95" and row.label == "mean_with_inventions")
    assert np.allclose(distances.differences, 0)  # 0 mm is the best distance, and that of these inventions


def test_a_class_that_only_one_has_keeps_its_line():
    rows = compare({"a": summary({"organ": [NAN] * 3}), "b": summary({"organ": [0.0] * 3})})
    organ, with_inventions = (row for row in rows if row.measure == "Dice")
    assert not organ.cases and len(organ.left_out) == 3 and with_inventions.mean == -1
    assert "| organ" in comparison_table(rows, ["Dice"])


def test_no_row_of_inventions_where_there_are_none():
    hidden = summary(CAREFUL)  # its surface is, by voxels to ignore: no invention
    for case in hidden["metric_per_case"][4:]:
        case["metrics"]["2"] |= {"n_pred": 1, "n_ref": 1}
    for other in (summary(CAREFUL), hidden):
        assert "mean_with_inventions" not in {row.label for row in compare({"a": other, "b": other})}


@pytest.mark.parametrize(
    ("change", "colour"),
    [
        ([0.1, 0.11, 0.12, 0.13, 0.14, 0.15, 0.16, 0.17], BLUE),
        ([-0.1, -0.11, -0.12, -0.13, -0.14, -0.15, -0.16, -0.17], VERMILION),
        ([0.0, 0.0, 0.0, 0.0, 0.1, 0.1, 0.1, 0.1], UNDECIDED),  # the interval says better, p is 0.125
        ([0.1, 0.2, 0.3], UNDECIDED),  # no p of three cases is small
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], BLUE),  # p 0.03125, no interval
    ],
)
def test_only_what_p_agrees_to_is_coloured(change, colour):
    after = summary({"organ": [0.2 + each for each in change]})
    rows = {row.measure: row for row in compare({"a": summary({"organ": [0.2] * len(change)}), "b": after})}
    assert colour_of(rows["Dice"]) == colour
    opposite = {BLUE: VERMILION, VERMILION: BLUE, UNDECIDED: UNDECIDED}
    assert colour_of(rows["HD95"]) == opposite[colour]  # less is better


def test_other_cases_are_refused():
    shorter = summary({name: values[:4] for name, values in SECOND.items()})
    with pytest.raises(ValueError, match="same cases: 4.nii.gz, 5.nii.gz"):
        compare({"first": summary(FIRST), "second": shorter})


def test_table_and_picture(tmp_path):
    absent, formula = {"nowhere": [math.nan] * 6}, {"a$b$": [0.5] * 6}  # no text of the user's is mathematics
    first, second = summary(FIRST | absent | formula), summary(SECOND | absent | formula)
    rows = compare({"first$x^$": first, "second": second})
    table = comparison_table(rows, ["Dice"])
    assert "+0.1333" in table and "second − first" in table and "nowhere" not in table
    for name, of in {"picture": rows, "nothing": compare({"a": summary(absent), "b": summary(absent)})}.items():
        save_paired_differences(tmp_path / f"{name}.png", of, dict.fromkeys(MEASURES, ""))
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    json.dumps([row.as_row() for row in rows])


def test_folders_are_called_by_what_tells_them_apart():
    assert folder_names([Path("x/a"), Path("x/b")]) == ["a", "b"]
    assert folder_names([Path("x/a/validation"), Path("x/b/validation")]) == ["a/validation", "b/validation"]
    with pytest.raises(ValueError, match="named twice"):
        folder_names([Path("x/a"), Path("x/../x/a")])
