from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_topomae import __version__, cli

REPOSITORY = Path(__file__).parents[1]
TRAINERS = ("TopoMAEPretrainer", "TopoMAEFinetuner", "TopoMAEFinetunerFromScratch")


def exported(line: str) -> str:
    """What a shell makes of the line that `nnunet-topomae env` prints."""
    return subprocess.run(
        ["sh", "-c", f'{line}\nprintf %s "$nnUNet_extTrainer"'], capture_output=True, text=True, check=True, env={}
    ).stdout


@pytest.fixture
def env(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], list[str]]:
    """Folders in nnUNet_extTrainer after `eval "$(nnunet-topomae env)"`, given what it held before."""

    def run(before: str | None) -> list[str]:
        monkeypatch.delenv("nnUNet_extTrainer", raising=False)
        if before is not None:
            monkeypatch.setenv("nnUNet_extTrainer", before)
        cli.main(["env"])
        return exported(capsys.readouterr().out).split(os.pathsep)

    return run


def test_env_names_the_trainers_of_the_source_tree(env: Callable) -> None:
    assert env(None) == env("") == [str(REPOSITORY / "trainers")]


def test_env_keeps_what_is_set_and_adds_itself_once(env: Callable, tmp_path: Path) -> None:
    other = tmp_path / "it's a folder; with $signs"
    once = env(str(other))
    assert once == [str(other), str(REPOSITORY / "trainers")]
    assert env(os.pathsep.join(once)) == once


def test_every_trainer_has_its_door() -> None:
    assert sorted(path.stem for path in (REPOSITORY / "trainers").glob("*.py")) == sorted(TRAINERS)


def test_a_wheel_carries_trainers_and_plans_and_needs_no_repository(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*build, "--wheel-dir", tmp_path, REPOSITORY], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"nnunet_topomae-{__version__}-py3-none-any.whl"
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    package = installed / "nnunet_topomae"
    assert {path.name for path in (package / "_trainers").iterdir()} == {f"{name}.py" for name in TRAINERS}
    assert {path.name for path in (package / "_plans").iterdir()} == {p.name for p in (REPOSITORY / "plans").iterdir()}
    assert (package / "py.typed").exists() and not (installed / "tests").exists()

    look_up = (
        "import sys; from nnunetv2.utilities.find_class_by_name import recursive_find_python_class as find\n"
        "found = find(sys.argv[1], 'TopoMAEFinetuner', None, cleanup_imports_from_base_folder=True)\n"
        "print(sys.modules[found.__module__].__file__)"
    )
    elsewhere = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(installed), "nnUNet_extTrainer": ""}}
    run = {"capture_output": True, "text": True, "check": True, **elsewhere}
    folder = exported(subprocess.run([sys.executable, "-m", "nnunet_topomae.cli", "env"], **run).stdout)
    assert folder == str(package / "_trainers")
    found = subprocess.run([sys.executable, "-c", look_up, folder], **run).stdout.splitlines()[-1]
    assert found == str(package / "training" / "finetuner.py")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert stop.value.code == 0 and len(lines) < 50
    listed = {line.split()[0]: line for line in lines if line.startswith("    ")}
    assert all(len(listed[name].split()) > 3 for name in cli.COMMANDS), "each has its help on the same line"


@pytest.mark.parametrize("verb", ["add", "list", "remove"])
def test_an_old_name_works_and_names_the_new_one(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([f"{verb}-unlabelled", "-d", "100", "--no-such-option"])
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"nnunet-topomae {verb}-unlabelled is now called: nnunet-topomae unlabelled {verb}"
    assert second.startswith(("nnunet-topomae:", f"nnunet-topomae unlabelled {verb}:"))
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert f"{verb}-unlabelled" not in capsys.readouterr().out


def test_every_file_of_a_command_is_listed() -> None:
    files = {file.stem for file in (REPOSITORY / "nnunet_topomae" / "commands").glob("[!_]*.py")}
    assert files == {name.replace("-", "_") for name in cli.COMMANDS}


def test_help_needs_nothing_that_is_slow_to_import() -> None:
    code = (
        "import sys; from nnunet_topomae import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: sys.exit(str({'numpy', 'torch', 'nnunetv2', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "set()"


def test_version_names_what_a_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert re.fullmatch(
        rf"nnunet-topomae {__version__} \(nnU-Net .+, PyTorch .+, Python .+\)\n", capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("", "required: COMMAND. See nnunet-topomae --help"),
        ("trian", "invalid choice: 'trian' .*'env'.* See nnunet-topomae --help"),
        ("unlabelled", "required: VERB. See nnunet-topomae unlabelled --help"),
        ("describe", "nnunet-topomae describe: .*required: -d. See nnunet-topomae describe --help"),
        ("describe -d 100 --memory lots", "--memory: invalid gibibytes value: 'lots'"),
        ("describe -d 100 --memory -3", "--memory: -3 is no size of a memory"),
        ("describe -d Hippocampus", "correct dataset name"),
        ("knobs mask_ration", "no knob 'mask_ration'"),
    ],
)
def test_a_mistake_is_one_line(refused, command: str, says: str) -> None:
    refused(command, saying=says)


def test_a_reader_that_stops_early_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m nnunet_topomae.cli knobs | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr


def test_no_foreign_warning_is_printed(phantom) -> None:
    command = [sys.executable, "-m", "nnunet_topomae.cli", "describe", "-d", str(phantom.dataset_id)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
