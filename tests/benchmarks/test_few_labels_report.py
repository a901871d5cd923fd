import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from few_labels_report import read_results, table, write_report  # noqa: E402

CASES = [f"case_{index}" for index in range(6)]


def write_run(folder: Path, arm: str, seed: int, dice: list[float]) -> None:
    run = folder / "runs" / arm / "labels_8" / f"seed_{seed}"
    run.mkdir(parents=True)
    cases = {
        case: {"left": {"dice": d, "hd95": 1.0, "betti_error": 0}, "right": {"dice": d, "hd95": 3.0, "betti_error": 2}}
        for case, d in zip(CASES, dice, strict=True)
    }
    content = {"arm": arm, "meaning": f"the arm {arm}", "labels": 8, "seed": seed, "seconds": 1, "cases": cases}
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
    chosen, reported = (read_results(runs, half)["full", 8].metrics["dice"] for half in ("choose", "report"))
    assert np.allclose(chosen, [[0.7, 0.7, 0.7]] * 2)
    assert np.allclose(reported, [[0.6, 0.8, 1.0], [0.8, 0.8, 1.0]])


def test_differences_are_paired_by_case(runs):
    results = read_results(runs, "report")
    mean, standard_error = results["full", 8].dice_ahead_of(results["scratch", 8])
    differences = np.array([0.7, 0.8, 1.0]) - 0.6
    assert mean == pytest.approx(differences.mean())
    assert standard_error == pytest.approx(differences.std(ddof=1) / 3**0.5)


def test_the_table_gives_spread_over_seeds(runs):
    best, second = table(read_results(runs, "report")).splitlines()[2:]
    assert "the arm full" in best and "0.833 ± 0.047" in best and "+0.233 ± 0.088" in best
    assert "2.00 ± 0.00" in best and "1.00 ± 0.00" in best  # HD95, Betti error: means over both classes
    assert "the arm scratch" in second and "0.600 ± 0.141" in second


def test_the_report_keeps_all_cases(runs):
    _, plot, results = write_report(runs, "report")
    assert plot.stat().st_size > 0
    assert sorted(json.loads(results.read_text())["runs"][0]["cases"]) == CASES
