"""The example in each command's --help works as typed, by a newcomer who has a dataset 100."""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_topomae import cli


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name != "demo"])  # tests/demo has that one
def test_example(prepare, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(name)
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    example = capsys.readouterr().out.rstrip().splitlines()[-1].strip()
    assert example == importlib.import_module(f"nnunet_topomae.commands.{name.replace('-', '_')}").EXAMPLE
    if example.startswith("nnunet-topomae "):
        assert shlex.split(example)[1] == name
        cli.main(shlex.split(example)[1:])
        assert capsys.readouterr().out
    else:
        monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        done = subprocess.run(["sh", "-c", f"{example}; printenv nnUNet_extTrainer"], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr and Path(done.stdout.strip().split(os.pathsep)[-1]).is_dir()


def test_a_split_is_overwritten_on_demand_only(prepare, refused) -> None:
    prepare("few-label-split")
    cli.main("few-label-split -d Dataset100_Phantom --labels 2".split())
    refused("few-label-split -d 100 --labels 2", saying="splits_final.json exists.*--force")
    cli.main("few-label-split -d 100 --labels 2 --force".split())
