"""Folders that the trainers themselves have left: the report reads them, and two pre-trainings make Figure 1."""

from pathlib import Path

import pytest
from matplotlib.image import imread

from nnunet_topomae.cli import main
from nnunet_topomae.training.finetuner import TopoMAEFinetunerFromScratch
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer


@pytest.fixture
def pretrained(workshop, monkeypatch):
    """Pre-trains with a weight of the topological loss, in a results folder of its own; its fold's folder."""

    def pretrain(weight: float, **knobs) -> Path:
        monkeypatch.setenv("nnUNet_results", str(workshop.results.parent / f"weight_{weight:g}"))
        trainer = workshop.build(TopoMAEPretrainer, iterations_per_epoch=1, weight_topology=weight, **knobs)
        trainer.run_training()
        return Path(trainer.output_folder)

    return pretrain


def test_figure_1_from_two_pretrainings(pretrained, tmp_path, capsys):
    without, with_topology = pretrained(0.0), pretrained(100.0)
    picture = tmp_path / "figure1.png"
    main(["figure", str(without), str(with_topology / "checkpoint_final.pth"), "-o", str(picture)])
    assert "figure1.png: phantom_tr_" in capsys.readouterr().out
    height, width = imread(picture).shape[:2]
    assert width > 1.5 * height  # six columns, three rows
    with pytest.raises(SystemExit, match="2"):
        main(["figure", str(without), str(with_topology), "-o", str(picture)])
    assert "exists. Use --force" in capsys.readouterr().err


def test_pretrainings_that_saw_other_crops_are_no_pair(pretrained, tmp_path, capsys):
    folders = [pretrained(0.0), pretrained(1.0, mask_ratio=0.5)]
    with pytest.raises(SystemExit, match="2"):
        main(["figure", *map(str, folders), "-o", str(tmp_path / "a.png")])
    assert "the two see other crops: they must share" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["figure", *map(str, folders), "-o", str(tmp_path / "a.txt")])
    assert "a.txt is no name of a picture" in capsys.readouterr().err


def test_a_report_on_trainings_one_of_which_has_not_been_validated(pretrained, workshop, tmp_path, capsys):
    first = pretrained(100.0)
    trainer = workshop.build(TopoMAEFinetunerFromScratch, iterations_per_epoch=1)
    trainer.run_training()
    page = tmp_path / "report.html"
    main(["report", str(first), trainer.output_folder, "-o", str(page)])
    assert f"{page}: " in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert "topology, partner" in text and "loss, segmentation" in text
    assert text.count('<div class="viewer">') == 2  # one crop of each of the first two validation cases
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
