"""A command that cannot write ends with an error that names the file, leaves nothing half done, and works next time."""

from __future__ import annotations

import resource
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nnunet_topomae import cli


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """No file gets longer than `free` bytes: writing more fails as on a full disk, with another error number."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("command", "free", "names"),
    [
        ("export-encoder checkpoint_final.pth -o encoders", 2000, "vit_encoder.safetensors"),
        ("export-encoder checkpoint_final.pth -o encoders", 3_150_000, "unetrpp_nnssl.pth"),
        ("few-label-split -d 100 --labels 2", 20, "splits_final.json"),
        ("plan -d 100 --memory 24 --preset tiny", 500, "nnUNetTopoMAEPlans.json"),
        ("apply-preset synapse -d 8", 200, "splits_final.json"),
        ("evaluate labelsTs predictions -djfile dataset.json -o summary.json -np 1", 100, "summary.json"),
        ("report nnUNet_results/Dataset100_Phantom -o report.html", 5000, "report.html"),
        ("convert synapse RawData -d 9", 150, "img0001.nii.gz"),
    ],
)
def test_nothing_is_left_and_the_next_run_succeeds(prepare, refused, tmp_path: Path, command, free, names) -> None:
    prepare(shlex.split(command)[0])
    before = content(tmp_path)
    with full_disk(free):
        refused(command, saying=f"{names} could not be written")
    assert content(tmp_path) == before
    cli.main(shlex.split(command))
    assert len(content(tmp_path)) > len(before)
