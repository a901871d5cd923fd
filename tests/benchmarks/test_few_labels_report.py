import json
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import few_labels  # noqa: E402
import few_labels_report  # noqa: E402
from few_labels_report import read_results, read_runs, table, write_report, write_runs  # noqa: E402

CASES = [f"case_{index}" for index in range(6)]


MEASURES = {
    "left": {"HD95": 1.0, "betti_error": 0, "NSD_1mm": 0.8},
    "right": {"HD95": 3.0, "betti_error": 2, "NSD_1mm": 1.0},
}


def write_run(folder: Path, arm: str, seed: int, dice: list[float], labels: int = 8) -> None:
    run = folder / "runs" / arm / f"labels_{labels}" / f"seed_{seed}"
    run.mkdir(parents=True)
    cases = {
        case: {name: measures | {"Dice": d} for name, measures in MEASURES.items()}
        for case, d in zip(CASES, dice, strict=True)
    }
    content = {"arm": arm, "meaning": f"the arm {arm}", "labels": labels, "seed": seed, "seconds": 1, "cases": cases}
    (run / "metrics.json").write_text(json.dumps(content))


@pytest.fixture
def runs(tmp_path) -> Path:
    (tmp_path / "settings.json").write_text("{}")
    write_run(tmp_path, "scratch", 0, [0.5] * 6)
    write_run(tmp_path, "scratch", 1, [0.7] * 6)
    write_run(tmp_path, "full", 0, [0.7, 0.6, 0.7, 0.8, 0.7, 1.0])
    write_run(tmp_path, "full", 1, [0.7, 0.8, 0.7, 0.8, 0.7, 1.0])
    return tmp_path


def test_settings_are_chosen_and_reported_on_different_cases(runs):
    chosen, reported = (read_results(runs, half)["full", 8].metrics["Dice"] for half in ("choose", "report"))
    assert np.allclose(chosen, [[0.7, 0.7, 0.7]] * 2)
    assert np.allclose(reported, [[0.6, 0.8, 1.0], [0.8, 0.8, 1.0]])


def test_differences_are_paired_by_case(runs):
    results = read_results(runs, "report")
    mean, standard_error = results["full", 8].minus(results["scratch", 8])
    differences = np.array([0.7, 0.8, 1.0]) - 0.6
    assert mean == pytest.approx(differences.mean())
    assert standard_error == pytest.approx(differences.std(ddof=1) / 3**0.5)


def test_the_table_gives_spread_over_seeds(runs):
    best, second = table(read_results(runs, "report")).splitlines()[2:]
    assert "the arm full" in best and "0.833 ± 0.047" in best and "+0.233 ± 0.088" in best
    assert (
        "0.900 ± 0.000" in best and "2.00 ± 0.00" in best and "1.00 ± 0.00" in best
    )  # NSD, HD95, Betti error: means over both classes
    assert "the arm scratch" in second and "0.600 ± 0.141" in second


def test_several_numbers_of_labels_are_drawn_as_lines_and_one_as_rows(runs, monkeypatch):
    drawn = []
    for name in ("draw_lines", "draw_rows"):
        draw = getattr(few_labels_report, name)
        monkeypatch.setattr(few_labels_report, name, lambda *a, name=name, draw=draw: (drawn.append(name), draw(*a)))
    write_report(runs, "report")
    write_run(runs, "full", 0, [0.6] * 6, labels=4)
    write_report(runs, "report")
    assert drawn == ["draw_rows", "draw_lines"]


def test_largest_components_have_a_table_of_their_own(runs):
    file = runs / "runs" / "full" / "labels_8" / "seed_0" / "metrics.json"
    run = json.loads(file.read_text())
    file.write_text(json.dumps(run | {"largest_component": {case: run["cases"][CASES[0]] for case in run["cases"]}}))
    ((arm, _),) = read_results(runs, "report", "largest components")
    assert arm == "full" and len(read_results(runs, "report")) == 2


def test_the_report_keeps_all_cases(runs):
    _, plot, results = write_report(runs, "report")
    assert plot.stat().st_size > 0
    kept = read_runs(results)
    assert [(run["arm"], run["labels"], run["seed"]) for run in kept] == [
        (run["arm"], run["labels"], run["seed"]) for run in read_runs(runs)
    ]
    assert sorted(kept[0]["cases"]) == CASES
    assert kept[0]["cases"]["case_5"]["right"].items() >= {"Dice": 1.0, **MEASURES["right"]}.items()


def test_a_measure_that_is_not_defined_stays_so(tmp_path):
    measures = {"left": {"Dice": 0.123456, "HD95": float("nan")}}
    run = {"arm": "full", "labels": 8, "setting": "a, b", "seed": 1, "cases": {"a": measures}}
    write_runs([run], tmp_path / "results.csv.gz")
    (read,) = read_runs(tmp_path / "results.csv.gz")
    assert read["setting"] == "a, b" and read["cases"]["a"]["left"]["Dice"] == 0.12346
    assert np.isnan([read["cases"]["a"]["left"][name] for name in ("HD95", "NSD_1mm", "betti_error")]).all()


def test_a_run_is_measured_as_the_package_measures(tmp_path):
    spacing = (1.0, 2.0, 3.0)
    for folder, shift in (("gt_segmentations", 0), ("validation", 1)):
        labels = np.zeros((8, 9, 10), np.uint8)
        labels[2 + shift : 5 + shift, 2:5, 2:5] = 1
        labels[0, 0, 0] = shift  # an island
        (tmp_path / folder).mkdir()
        image = sitk.GetImageFromArray(labels)
        image.SetSpacing(spacing)
        sitk.WriteImage(image, str(tmp_path / folder / "a.nii.gz"))
    sitk.WriteImage(image, str(tmp_path / "gt_segmentations" / "of_training.nii.gz"))
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}, "numTraining": 1}
    (tmp_path / "dataset.json").write_text(json.dumps({**description, "file_ending": ".nii.gz"}))
    measured = few_labels._measure(tmp_path / "validation", tmp_path, ["betti_matching_error"])
    organ, largest = (measured[key]["a"]["organ"] for key in ("cases", "largest_component"))
    assert organ["HD95"] == largest["HD95"] == 3 and largest["Dice"] == pytest.approx(2 / 3)
    assert organ["Dice"] < 2 / 3
    for name in ("betti_error", "betti_matching_error"):
        assert (organ[name], largest[name]) == (1, 0)


@pytest.mark.parametrize(
    ("knob", "complaint"),
    [
        ("preset=small", "preset would be overridden"),
        ("partner=plan", "partner would be overridden"),
        ("no_such_knob=1", "unknown knob 'no_such_knob'"),
        ("finetune_lr=fast", "finetune_lr = 'fast' is not valid"),
    ],
)
def test_a_knob_that_would_not_count_is_refused_before_anything_runs(knob, complaint, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    command = f"few_labels.py -d Dataset004_Hippocampus --splits splits.json --set {knob} --out {out}"
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit):
        few_labels.main()
    assert complaint in capsys.readouterr().err
    assert not out.exists()


def test_knobs_may_be_set_by_several_options(monkeypatch):
    command = "few_labels.py -d D --splits s.json --out o --set vit_steps=2 --set vit_views=4 mask_ratio=0.5"
    monkeypatch.setattr(sys, "argv", command.split())
    assert few_labels._options().set == {"vit_steps": "2", "vit_views": "4", "mask_ratio": "0.5"}
