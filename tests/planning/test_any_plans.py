"""A plans file is text that anybody may have edited: whatever it holds, an error says what is wrong with it."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.networks import Geometry
from nnunet_topomae.planning.blueprint import geometry_of
from nnunet_topomae.planning.plans_file import configuration_of, read_plans

PLANS = {
    "configurations": {
        "3d_fullres": {
            "patch_size": [32, 64, 64],
            "batch_size": 2,
            "architecture": {"arch_kwargs": {"strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]}},
        },
        "3d_lowres": {"inherits_from": "3d_fullres"},
    },
    "topomae": {"preset": "tiny"},
}
PLACES = [
    (),
    ("configurations",),
    ("configurations", "3d_fullres"),
    ("configurations", "3d_lowres", "inherits_from"),
    ("configurations", "3d_fullres", "patch_size"),
    ("configurations", "3d_fullres", "patch_size", 1),
    ("configurations", "3d_fullres", "batch_size"),
    ("configurations", "3d_fullres", "architecture"),
    ("configurations", "3d_fullres", "architecture", "arch_kwargs"),
    ("configurations", "3d_fullres", "architecture", "arch_kwargs", "strides"),
    ("configurations", "3d_fullres", "architecture", "arch_kwargs", "strides", 2),
    ("configurations", "3d_fullres", "architecture", "arch_kwargs", "strides", 2, 0),
    ("topomae",),
    ("topomae", "preset"),
]
MISSING = object()

plausible = st.sampled_from([-2, 0, 1, 2, 4, 64, 2.0, 2**40])
numbers = st.integers() | st.floats() | st.integers(10**300, 10**310) | plausible
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.sampled_from(["", "3d_fullres", "3d_lowres", "32"]) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=5) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)


def changed(plans: dict, place: tuple, value: object) -> object:
    """A copy with `value` in `place`, or without what was there."""
    if not place:
        return {} if value is MISSING else value
    plans = deepcopy(plans)
    holder = plans
    for key in place[:-1]:
        holder = holder[key]
    if value is MISSING:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return plans


def test_the_unspoilt_plans_have_a_geometry():
    assert geometry_of(configuration_of(PLANS, "3d_lowres").configuration).patch_size == (32, 64, 64)


@pytest.mark.parametrize(
    ("place", "value"),
    [(("patch_size", 1), 64.0), (("patch_size",), [32.0, 64.0, 64.0]), (("batch_size",), 2.0), (("batch_size",), 0)],
)
def test_numbers_that_would_kill_a_data_worker_are_refused(place, value):
    plans = changed(PLANS, ("configurations", "3d_fullres", *place), value)
    with pytest.raises(ValueError, match=f"{place[0]} in the plans must .*integer"):
        geometry_of(configuration_of(plans, "3d_lowres").configuration)


def test_a_configuration_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(ValueError, match=f"no configuration '3d_middle', only {', '.join(PLANS['configurations'])}"):
        configuration_of(PLANS, "3d_middle")


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(PLACES), st.just(MISSING) | json_values, st.sampled_from(["3d_fullres", "3d_lowres"]))
def test_any_plans_give_config_and_geometry_or_a_value_error(place, value, name):
    with TemporaryDirectory() as folder:
        (Path(folder) / "plans.json").write_text(json.dumps(changed(PLANS, place, value)))
        try:
            plans = read_plans(Path(folder), "plans")
            config = TopoMAEConfig.resolve(plans, {})
            geometry = geometry_of(configuration_of(plans, name).configuration)
        except ValueError as error:  # ConfigError is one
            assert len(str(error)) > 20
            return
    assert isinstance(config, TopoMAEConfig) and isinstance(geometry, Geometry)
    assert all(edge >= 1 for edge in geometry.token_grid)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30) | st.integers(0, 3000).map(lambda depth: "[" * depth) | st.just("NaN"))
def test_any_text_is_plans_or_a_value_error(text):
    with TemporaryDirectory() as folder:
        (Path(folder) / "plans.json").write_text(text)
        with pytest.raises(ValueError, match="plans.json (is no valid JSON|holds no plans)"):
            read_plans(Path(folder), "plans")
