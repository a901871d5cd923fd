"""The benchmark of a training step ends in time, and says what it could not measure."""

import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import training  # noqa: E402

KEYS = [("TopoMAEPretrainer", "workers"), ("TopoMAEPretrainer", "device")]
RESULT = {
    "step": 2.0,
    "without topology": 1.5,
    "parts": dict.fromkeys(training.PARTS, 0.1),
    "engine": {"homology": 0.2, "matching": 0.3},
    "idle": None,
    "host": 1.0,
    "device": None,
    "volumes": 2,
    "patch": [8, 8, 8],
}


@pytest.fixture
def options(tmp_path) -> Namespace:
    options = Namespace(dataset="Dataset999_Missing", configuration="3d_fullres", fold=0, plans="nnUNetPlans")
    vars(options).update(trainers=["TopoMAEPretrainer"], rounds=3, device="cpu", batch=None, patch=None)
    vars(options).update(partner="plan", preset="tiny")
    vars(options).update(threads=1, steps=1, warm_up=1, compile=False, minutes=1, docs=tmp_path, phantom=None)
    return options


@pytest.fixture
def turns(monkeypatch):
    """Turns that take so many seconds by a clock of their own."""

    def of(seconds: list[float]) -> None:
        now, left = [0.0], iter(seconds)

        def take_turn(trainer: str, place: str, options: Namespace, end: float) -> dict | str:
            now[0] += next(left)
            return RESULT if now[0] <= end else "stopped"

        monkeypatch.setattr(training, "take_turn", take_turn)
        monkeypatch.setattr(training.time, "monotonic", lambda: now[0])

    return of


def test_of_the_first_round_what_there_is_counts_of_later_ones_the_whole(options, turns):
    turns([4, 9])
    assert training.take_turns(options, 10) == ({KEYS[0]: [RESULT]}, {KEYS[1]: "stopped"})
    turns([2, 2, 2, 9])
    assert training.take_turns(options, 10) == ({key: [RESULT] for key in KEYS}, {})


def test_a_round_that_would_not_end_in_time_is_not_begun(options, turns):
    turns([3, 3])
    results, missing = training.take_turns(options, 10)
    assert [len(results[key]) for key in KEYS] == [1, 1] and not missing
    turns([1] * 6)
    assert len(training.take_turns(options, 100)[0][KEYS[0]]) == options.rounds


def test_the_page_names_what_is_missing_and_shows_no_seconds_of_a_cpu(options):
    training.report(options, {KEYS[0]: [RESULT]}, {KEYS[1]: "stopped"})
    page = (options.docs / "benchmarks.md").read_text()
    assert "Not measured, for want of time or by an error: TopoMAEPretrainer with device." in page
    (row,) = (line for line in page.splitlines() if line.startswith("| TopoMAEPretrainer"))
    assert [cell.strip() for cell in row.split("|")][-6:-1] == ["11 %", "10 %", "15 %", "25 %", "1.0 GiB"]
    assert " ms" not in page and "2.0" not in row


def test_a_step_is_compared_with_that_of_nnunet_where_both_were_measured(options):
    pretraining, nnunet = {**RESULT, "without topology": 1.5}, {**RESULT, "step": 1.2}
    training.report(options, {KEYS[0]: [pretraining], ("nnUNetTrainer", "workers"): [nnunet]}, {})
    training.report(Namespace(**{**vars(options), "preset": "base"}), {KEYS[1]: [pretraining]}, {})
    cells = [line.split("|") for line in (options.docs / "benchmarks.md").read_text().splitlines()]
    rows = {(row[1].strip(), row[2].strip()): (row[3].strip(), row[4].strip()) for row in cells if len(row) > 5}
    assert rows[KEYS[0]] == ("1.00", "1.25") and rows[KEYS[1]] == ("–", "–")


def test_a_turn_ends_with_its_result_with_its_error_or_with_the_time(options, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    begin = time.monotonic()
    assert training.take_turn(*KEYS[0], options, begin) == "no time left"
    assert training.take_turn(*KEYS[0], options, begin + 0.5) == "stopped, as the time was up"
    assert time.monotonic() - begin < 30
    assert "Dataset999_Missing" in training.take_turn(*KEYS[0], options, begin + 300)
    monkeypatch.setattr(training, "_in_process", print)  # which sends nothing
    assert training.take_turn(*KEYS[0], options, begin + 300) == "its process ended with status 0"
