"""The estimate beside what the page on speed says was measured."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.networks.geometry import geometry_from_plan
from nnunet_topomae.planning.host_work import HostWork

PAGE = Path(__file__).parents[2] / "docs" / "speed.md"
TINY = TopoMAEConfig(preset="tiny", weight_topology=100)


def work(config: TopoMAEConfig, patch=(128, 128, 128)) -> HostWork:
    return HostWork.of(geometry_from_plan(patch, [[1, 1, 1], *[[2, 2, 2]] * 4]), 1, 2, config)


@pytest.mark.parametrize("patch", [(128, 128, 128), (64, 128, 128)])
@pytest.mark.parametrize("steps, every", [(8, 1), (8, 4), (1, 1), (1, 4)])
def test_it_is_within_a_third_of_the_table(patch, steps, every):
    row = rf"\| {'×'.join(map(str, patch))} +\| {steps} +\| {every} +\| ([\d.]+) to ([\d.]+) "
    least, most = map(float, re.search(row, PAGE.read_text()).groups())
    estimated = work(replace(TINY, vit_steps=steps, topology_every=every), patch)
    assert [estimated.data + topology for topology in estimated.topology] == pytest.approx([least, most], rel=1 / 3)


def test_the_line_spreads_it_over_cores():
    assert "0.9 to 2 core-seconds" in str(HostWork(0.1, 0.5, (0.8, 1.9)))
    assert "0.23 to 0.5 s with 4, 0.11 to 0.25 s with 8" in str(HostWork(0.1, 0.5, (0.8, 1.9)))


def test_without_topology_data_alone_counts():
    without = work(replace(TINY, weight_topology=0))
    assert without.topology == (0, 0) and "takes 0.12 core-seconds" in str(without)
