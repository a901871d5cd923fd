"""Folders that the trainers themselves have left: the report reads them."""

import pytest

from nnunet_topomae.cli import main
from nnunet_topomae.training.finetuner import TopoMAEFinetunerFromScratch
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer


def test_a_report_on_trainings_one_of_which_has_not_been_validated(workshop, tmp_path, capsys):
    first = workshop.build(TopoMAEPretrainer, iterations_per_epoch=1)
    first.run_training()
    trainer = workshop.build(TopoMAEFinetunerFromScratch, iterations_per_epoch=1)
    trainer.run_training()
    page = tmp_path / "report.html"
    main(["report", first.output_folder, trainer.output_folder, "-o", str(page)])
    assert f"{page}: " in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert "topology, partner" in text and "loss, segmentation" in text
    pictures = text.count(": input, masked input, reconstructions")
    assert pictures == 2  # one crop of each of the first two validation cases
    assert "No validation/summary.json." in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["."], "is no results folder of nnU-Net"),
        ([".", "--cases", "-1"], "--cases must be at least 0"),
        ([".", "-o", "no/such/folder.html"], "no/such does not exist: make the folder first"),
    ],
)
def test_a_bad_path_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["report", *arguments])
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
