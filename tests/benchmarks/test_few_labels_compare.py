import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import few_labels_compare  # noqa: E402
from few_labels_compare import ablated, comparison, select  # noqa: E402


def run(arm: str, seed: int, dice: list[float], **more) -> dict:
    return {"arm": arm, "meaning": arm, "labels": 8, "seed": seed, "cases": measures(dice), **more}


def measures(dice: list[float]) -> dict:
    return {f"case_{i}": {"organ": {"Dice": d, "HD95": 1.0, "betti_error": 0}} for i, d in enumerate(dice)}


@pytest.fixture
def results(tmp_path) -> Path:
    runs = [
        run("full", 0, [0.8, 0.5, 0.8, 0.7], setting="long", without={"vit_mean": measures([0.7] * 4)}),
        run("full", 1, [0.9, 0.9, 0.9, 0.9], setting="long", without={"vit_mean": measures([0.9] * 4)}),
        run("scratch", 1, [0.8, 0.8, 0.6, 0.6]),
        run("scratch", 2, [0.1] * 4),
    ]
    for each in runs:
        folder = tmp_path / "runs" / each["arm"] / "labels_8" / f"seed_{each['seed']}"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(each))
    return tmp_path


def test_seeds_that_both_have_are_paired(results):
    row = comparison(select(results, "full", 8, "long"), {"scratch": select(results, "scratch", 8)}).splitlines()[-1]
    assert "0.750 ± 0.212" in row  # of the reporting half: case_1 and case_3
    assert "+0.200 ± 0.100 (+0.200)" in row


def test_what_a_part_is_worth_is_measured_on_the_same_networks(results):
    runs = select(results, "full", 8, "long")
    choose, report = comparison(runs, ablated(runs)).splitlines()[-2:]
    assert "+0.050 ± 0.000 ± 0.050 (+0.100, +0.000)" in choose
    assert "-0.050 ± 0.050 ± 0.050 (-0.100, +0.000)" in report


def test_differences_may_be_of_another_metric(results, monkeypatch, capsys):
    selection = f"--of {results} full 8 long --against {results} scratch 8"
    monkeypatch.setattr(sys, "argv", f"few_labels_compare.py --metric NSD_1mm {selection}".split())
    few_labels_compare.main()
    assert "NSD 1 mm − scratch" in (table := capsys.readouterr().out) and table.count("not kept") == 4
    monkeypatch.setattr(sys, "argv", f"few_labels_compare.py --metric HD95 {selection}".split())
    few_labels_compare.main()
    assert capsys.readouterr().out.count("+0.000 ± 0.000 (+0.000)") == 2


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--of RESULTS full", "is not FILE ARM LABELS"),
        ("--of RESULTS full four long", "is not FILE ARM LABELS"),
        ("--of RESULTS full 8 short", "no runs of 'full' with 8 labels, 'short'"),
        ("--of RESULTS/nothing.csv.gz full 8", "nothing.csv.gz does not exist"),
        ("", "--list or --of is needed"),
        ("--against RESULTS full 8", "--list or --of is needed"),
    ],
)
def test_what_cannot_be_compared_is_named(options, complaint, results, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["few_labels_compare.py", *options.replace("RESULTS", str(results)).split()])
    with pytest.raises(SystemExit):
        few_labels_compare.main()
    assert complaint in capsys.readouterr().err
