import pickle
import shutil

import numpy as np
import pytest
import torch

from nnunet_topomae.report.health import state
from nnunet_topomae.report.runs import find_folds, read_curves, read_runs


def test_folds_of_a_fold_a_model_and_a_dataset(results):
    first, second = results.fold(), results.fold("TopoMAEFinetuner")
    third = results.dataset / second.parent.name / "fold_1"
    shutil.copytree(second, third)
    assert find_folds(first) == [first]
    assert find_folds(second.parent) == [second, third]
    assert find_folds(results.dataset) == [second, third, first]
    assert [run.letter for run in read_runs([first, results.dataset])] == ["A", "B0", "B1"]  # each once


def test_curves_hold_numbers_of_numpy(results):
    (run,) = read_runs([results.fold()])
    assert run.curve("val_losses").tolist() == [0.6, 0.3] and run.curve("train_losses").tolist() == [0.5, 0.25]
    assert run.epoch_seconds.tolist() == [9, 20] and run.epochs == 2 and state(run) == "finished, 2 of 2 epochs"


def test_no_code_of_a_checkpoint_is_run(results, tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("evil").touch, ())

    folder = results.fold(logging={"val_losses": [Evil()]})
    (run,) = read_runs([folder])
    assert not (tmp_path / "evil").exists()
    assert run.epochs == 0 and "holds what could run a program" in run.missing[0] and not run.checkpoint


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", pickle.dumps([1])])
def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / "checkpoint_final.pth").write_bytes(content)
    with pytest.raises(ValueError, match="checkpoint_final.pth"):
        read_curves(tmp_path / "checkpoint_final.pth")


def test_a_checkpoint_of_another_tool_has_no_curves(tmp_path):
    file = tmp_path / "checkpoint_final.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}}, file)
    assert read_curves(file) == {"logging": {}, "init_args": {}}
    torch.save({"logging": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match="must be dictionaries"):
        read_curves(file)


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"metric_per_case": 3}', '{"metric_per_case": [{"metrics": {"1": 2}}], "mean": {}}']
)
def test_a_summary_of_another_tool_is_left_out(results, text):
    folder = results.segmentation()
    (folder / "validation" / "summary.json").write_text(text)
    (run,) = read_runs([folder])
    assert run.validation.cases == {} == run.validation.mean
    assert any("validation/summary.json" in sentence for sentence in run.missing)


def test_an_empty_fold_of_which_only_a_log_is_left(results):
    folder = results.dataset / "OtherTrainer" / "fold_all"
    folder.mkdir(parents=True)
    (folder / "training_log_2026.txt").touch()
    (run,) = read_runs([folder])
    assert run.trainer == "OtherTrainer" and run.fold == "all" and run.dataset == results.dataset.name
    assert run.missing[0].startswith("No checkpoint") and len(run.missing) == 5 and not np.any(run.epoch_seconds)
