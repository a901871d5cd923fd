from nnunet_topomae.report.knobs import knobs, nnunet_settings, setting_tables
from nnunet_topomae.report.models import models_of
from nnunet_topomae.report.runs import read_runs
from nnunet_topomae.report.tables import DASH


def test_knobs_that_differ_come_first(results):
    results.fold("TopoMAEPretrainer", knobs={"weight_topology": 50.0, "mask_ratio": 0.5})
    results.fold("TopoMAEFinetuner", knobs={"fusion": "partner_only", "mask_ratio": 0.6})
    results.fold("nnUNetTrainer")
    runs = read_runs([results.dataset])
    assert [run.trainer for run in runs] == ["TopoMAEFinetuner", "TopoMAEPretrainer", "nnUNetTrainer"]
    telling, others = setting_tables("Knobs", knobs(models_of(runs)))
    assert telling.head == ["setting", "default", "A", "B", "C", "meaning"]
    rows = {row[0]: row[1:-1] for row in telling.rows}
    assert set(rows) == {"fusion", "mask_ratio", "weight_topology"}
    assert rows["weight_topology"] == ["0", DASH, "<mark>50</mark>", DASH]
    assert rows["mask_ratio"][1] == DASH  # fine-tuning masks nothing, whatever its plans say
    assert ["0.05", "0.05", "0.05", DASH] in [row[1:-1] for row in others.rows if row[0] == "weight_decay"]


def test_nnunet_settings_are_of_its_trainer_and_of_the_plans(results):
    results.fold("TopoMAEFinetuner")
    results.fold("nnUNetTrainer")
    tables = setting_tables("Settings", nnunet_settings(models_of(read_runs([results.dataset]))))
    rows = {row[0]: row[1:-1] for table in tables for row in table.rows}
    assert rows["num_epochs"] == ["", "2", "2"]
    assert rows["patch_size"] == ["", "8 × 8 × 8", "8 × 8 × 8"]
    assert rows["spacing"] == ["", "2 × 1 × 1", "2 × 1 × 1"]
    assert knobs(models_of(read_runs([results.dataset / "nnUNetTrainer__nnUNetPlans__3d_fullres"]))) == []


def test_folds_of_a_model_are_one_column(results):
    results.fold("TopoMAEPretrainer", knobs={"seed": 1})
    results.fold("TopoMAEPretrainer", knobs={"seed": 2}, fold=1)
    (model,) = models_of(read_runs([results.dataset]))
    (seed,) = [setting for setting in knobs([model]) if "seed" in setting.row["setting"]]
    assert seed.row["A"] == "<mark>1 or 2</mark>" and seed.differ and seed.changed
