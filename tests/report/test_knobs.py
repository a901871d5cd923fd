from nnunet_topomae.report.knobs import NOT_USED, knobs, nnunet_settings
from nnunet_topomae.report.models import models_of
from nnunet_topomae.report.runs import read_runs


def test_knobs_that_differ_come_first(results):
    results.fold("TopoMAEPretrainer", knobs={"weight_topology": 50.0, "mask_ratio": 0.5})
    results.fold("TopoMAEFinetuner", knobs={"fusion": "partner_only", "mask_ratio": 0.6})
    results.fold("nnUNetTrainer")
    runs = read_runs([results.dataset])
    assert [run.trainer for run in runs] == ["TopoMAEFinetuner", "TopoMAEPretrainer", "nnUNetTrainer"]
    rows = {row.name: row for row in knobs(models_of(runs))}
    assert set(list(rows)[:3]) == {"fusion", "mask_ratio", "weight_topology"}
    assert rows["weight_topology"].values == [NOT_USED, "50", NOT_USED] and rows["weight_topology"].default == "0"
    assert rows["weight_topology"].changed == [False, True, False]
    assert rows["mask_ratio"].values[0] == NOT_USED  # fine-tuning masks nothing, whatever its plans say
    assert rows["weight_decay"].values == ["0.05", "0.05", NOT_USED] and not rows["weight_decay"].is_telling


def test_nnunet_settings_are_marked_for_its_own_trainers_only(results):
    results.fold("TopoMAEFinetuner")
    results.fold("nnUNetTrainer")
    rows = {row.name: row for row in nnunet_settings(models_of(read_runs([results.dataset])))}
    assert rows["num_epochs"].values == ["2", "2"] and rows["num_epochs"].changed == [False, True]
    assert rows["patch_size, of the plans"].values == ["8 × 8 × 8"] * 2
    assert rows["spacing, of the plans"].values == ["2 × 1 × 1"] * 2
    assert knobs(models_of(read_runs([results.dataset / "nnUNetTrainer__nnUNetPlans__3d_fullres"]))) == []


def test_folds_of_a_model_are_one_column(results):
    results.fold("TopoMAEPretrainer", knobs={"seed": 1})
    results.fold("TopoMAEPretrainer", knobs={"seed": 2}, fold=1)
    (model,) = models_of(read_runs([results.dataset]))
    (seed,) = [row for row in knobs([model]) if row.name == "seed"]
    assert seed.values == ["1 or 2"] and seed.differ and seed.changed == [True]
