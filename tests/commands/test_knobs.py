from __future__ import annotations

from dataclasses import fields

import pytest

from nnunet_topomae import cli
from nnunet_topomae.commands.knobs import knobs_as_text
from nnunet_topomae.config import PHASES, TopoMAEConfig

KNOBS = {knob.name: knob for knob in fields(TopoMAEConfig)}


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]):
    def shown(*arguments: str) -> list[str]:
        cli.main(["knobs", *arguments])
        return capsys.readouterr().out.splitlines()

    return shown


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_lines_up_and_fits_the_terminal(width: int) -> None:
    lines = knobs_as_text(width).splitlines()
    rows = [line for line in lines if line[2:].split(" ")[0] in KNOBS]
    assert sorted(row.split()[0] for row in rows) == sorted(KNOBS)
    assert [line for line in lines if line in PHASES] == list(PHASES)
    start = rows[0].index(KNOBS[rows[0].split()[0]].metadata["meaning"].split()[0])
    assert all(row[start - 1] == " " and row[start] != " " for row in rows)
    assert max(map(len, lines)) <= max(width, start + 20)


def test_a_knob_stands_under_its_phase(shown) -> None:
    phase_of, phase = {}, ""
    for line in shown():
        phase = line if line in PHASES else phase
        phase_of[line[2:].split(" ")[0]] = phase
    assert phase_of["seed"] == phase_of["pretrained"] == "both phases"
    assert phase_of["mask_ratio"] == phase_of["pretrain_epochs"] == "pre-training"
    assert phase_of["fusion"] == phase_of["finetune_lr"] == "fine-tuning"


@pytest.mark.parametrize("name", ["pretrain_epochs", "PRETRAIN_EPOCHS", "NNUNET_TOPOMAE_PRETRAIN_EPOCHS"])
def test_one_knob(shown, name: str) -> None:
    text = "\n".join(shown(name))
    for part in ("length of pre-training", "at least 1", "1000 epochs", "export NNUNET_TOPOMAE_PRETRAIN_EPOCHS="):
        assert part in text


def test_markdown_has_every_knob_in_a_table(shown) -> None:
    rows = [line for line in shown("--markdown") if line.startswith("| `")]
    assert sorted(row.split("`")[1] for row in rows) == sorted(KNOBS)
    assert all(row.count("|") == 5 for row in rows)
    (row,) = (line for line in shown("mask_ratio", "--markdown") if line.startswith("| `"))
    assert "strictly between 0 and 1" in row
