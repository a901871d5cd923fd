import json
import math
import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_topomae.config import ConfigError, TopoMAEConfig


def test_defaults_then_plans_then_environment():
    plans = {"topomae": {"preset": "small", "mask_ratio": 0.6}}
    environment = {"NNUNET_TOPOMAE_PRESET": "tiny", "PATH": "untouched"}

    config = TopoMAEConfig.resolve(plans, environment)

    assert (config.preset, config.mask_ratio, config.weight_topology) == ("tiny", 0.6, TopoMAEConfig().weight_topology)


def test_a_trained_model_is_rebuilt_without_the_environment(monkeypatch):
    monkeypatch.setenv("NNUNET_TOPOMAE_PRESET", "tiny")
    assert TopoMAEConfig.from_plans({"topomae": {"preset": "small"}}).preset == "small"


def test_environment_strings_become_the_types_of_the_knobs():
    config = TopoMAEConfig.resolve(
        {}, {"NNUNET_TOPOMAE_TOPOLOGY_DIMENSIONS": "0,2", "NNUNET_TOPOMAE_MIRROR": "True", "NNUNET_TOPOMAE_SEED": "7"}
    )
    assert (config.topology_dimensions, config.mirror, config.seed) == ((0, 2), True, 7)


def test_the_section_written_to_the_plans_reads_back_as_the_same_config():
    config = TopoMAEConfig(preset="tiny", topology_dimensions=(1,))
    assert TopoMAEConfig.from_plans(json.loads(json.dumps({"topomae": config.to_section()}))) == config


def test_an_unknown_name_is_an_error_that_lists_the_valid_ones():
    with pytest.raises(ConfigError, match="'mask_ration' in the environment.*mask_ratio"):
        TopoMAEConfig.resolve({}, {"NNUNET_TOPOMAE_MASK_RATION": "0.5"})
    with pytest.raises(ConfigError, match="'presett' in the 'topomae' section.*preset"):
        TopoMAEConfig.resolve({"topomae": {"presett": "tiny"}}, {})


@pytest.mark.parametrize(
    ("knob", "value", "says"),
    [
        ("preset", "huge", "one of tiny, small, base"),
        ("mask_ratio", "1.0", "strictly between 0 and 1"),
        ("pretrain_epochs", "0", "at least 1"),
        ("pretrain_epochs", "ten", "takes int"),
        ("pretrain_epochs", 2.5, "takes int"),
        ("pretrain_lr", "nan", "at least 0"),
        ("pretrain_lr", float("inf"), "at least 0"),
        ("pretrain_lr", 10**400, "at least 0"),
        ("pretrain_epochs", float("inf"), "at least 1"),
        ("seed", 2**31, "between -1 and 2147483647"),
        ("mirror", "maybe", "takes bool"),
        ("topology_dimensions", "0,3", "distinct homology dimensions"),
        ("topology_dimensions", "", "distinct homology dimensions"),
    ],
)
def test_a_bad_value_is_an_error_that_says_what_is_valid(knob, value, says):
    with pytest.raises(ConfigError, match=f"{knob}.*{says}.*NNUNET_TOPOMAE_{knob.upper()}"):
        TopoMAEConfig.resolve({"topomae": {knob: value}}, {})


def test_the_section_must_be_a_mapping():
    with pytest.raises(ConfigError, match="must map names to values, not be a list"):
        TopoMAEConfig.from_plans({"topomae": ["preset"]})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**300, 10**320) | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=2),
    max_leaves=4,
)
knob_names = st.sampled_from([f.name for f in fields(TopoMAEConfig)])
sections = st.dictionaries(knob_names | st.text(max_size=12), json_values, max_size=4)


@settings(deadline=None)
@given(sections | json_values)
def test_any_section_gives_a_config_or_a_config_error(section):
    try:
        config = TopoMAEConfig.from_plans({"topomae": section})
    except ConfigError as error:
        assert str(error)
        return
    assert TopoMAEConfig.from_plans({"topomae": config.to_section()}) == config
    assert all(math.isfinite(value) for value in vars(config).values() if isinstance(value, float))


@given(st.dictionaries(knob_names.map(lambda name: f"NNUNET_TOPOMAE_{name.upper()}"), st.text(max_size=12), max_size=4))
def test_any_environment_gives_a_config_or_a_config_error(environment):
    try:
        TopoMAEConfig.resolve({}, environment)
    except ConfigError as error:
        assert "NNUNET_TOPOMAE_" in str(error)


WEIGHTS_AND_RATES = r"weight_.+|.+_(lr|ratio|factor|fraction|probability|tolerance|scale|clip|rate)"


@pytest.mark.parametrize("name", [k.name for k in fields(TopoMAEConfig) if re.fullmatch(WEIGHTS_AND_RATES, k.name)])
def test_the_evidence_for_a_default_is_written_down(name):
    page = (Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text()
    rows = page.split("## Where the defaults come from")[1]
    assert f"| `{name}` | `{getattr(TopoMAEConfig(), name)!r}` | " in rows
