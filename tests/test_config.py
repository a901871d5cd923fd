import json
import math
import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_topomae.config import PARTNERS, RECIPES, REMOVED, REMOVED_VALUES, ConfigError, TopoMAEConfig

METHOD = Path(__file__).parents[1] / "docs" / "method.md"


def test_defaults_then_plans_then_environment():
    plans = {"topomae": {"preset": "small", "mask_ratio": 0.6}}
    environment = {"NNUNET_TOPOMAE_PRESET": "tiny", "PATH": "untouched"}

    config = TopoMAEConfig.resolve(plans, environment)

    assert (config.preset, config.mask_ratio, config.weight_topology) == ("tiny", 0.6, TopoMAEConfig().weight_topology)


def test_a_trained_model_is_rebuilt_without_the_environment(monkeypatch):
    monkeypatch.setenv("NNUNET_TOPOMAE_PRESET", "tiny")
    assert TopoMAEConfig.from_plans({"topomae": {"preset": "small"}}).preset == "small"


@pytest.mark.parametrize(("partner", "preset"), PARTNERS.items())
def test_the_size_follows_the_partner_unless_it_is_asked_for(partner, preset):
    environment = {"NNUNET_TOPOMAE_PARTNER": partner}
    assert TopoMAEConfig.resolve({}, environment).preset == preset
    assert TopoMAEConfig.resolve({"topomae": {"preset": "small"}}, environment).preset == "small"


def test_the_knobs_are_shown_with_a_mark_at_those_that_differ_from_an_untouched_run():
    assert "(changed)" not in str(TopoMAEConfig())
    changed = [line.split() for line in str(TopoMAEConfig(preset="small", seed=1)).splitlines() if "(changed)" in line]
    assert changed == [["preset", "'small'", "(changed)"], ["seed", "1", "(changed)"]]


def test_environment_strings_become_the_types_of_the_knobs():
    texts = {"TOPOLOGY_DIMENSIONS": "0,2", "GRADIENT_CHECKPOINTING": "True", "SEED": "7"}
    config = TopoMAEConfig.resolve({}, {f"NNUNET_TOPOMAE_{name}": text for name, text in texts.items()})
    assert (config.topology_dimensions, config.gradient_checkpointing, config.seed) == ((0, 2), True, 7)


def test_the_section_written_to_the_plans_reads_back_as_the_same_config():
    config = TopoMAEConfig(preset="tiny", topology_dimensions=(1,))
    assert TopoMAEConfig.from_plans(json.loads(json.dumps({"topomae": config.to_section()}))) == config


def test_an_unknown_name_is_an_error_that_lists_the_valid_ones():
    with pytest.raises(ConfigError, match="'mask_ration' in the environment.*mask_ratio"):
        TopoMAEConfig.resolve({}, {"NNUNET_TOPOMAE_MASK_RATION": "0.5"})
    with pytest.raises(ConfigError, match="'presett' in the 'topomae' section.*preset"):
        TopoMAEConfig.resolve({"topomae": {"presett": "tiny"}}, {})


@pytest.mark.parametrize("knob", REMOVED)
def test_a_knob_of_version_0_2_that_is_gone_may_stay_at_its_old_default(knob):
    default = REMOVED[knob]
    assert TopoMAEConfig.from_plans({"topomae": {knob: default}}) == TopoMAEConfig()
    variable = f"NNUNET_TOPOMAE_{knob.upper()}"
    assert TopoMAEConfig.resolve({}, {variable: str(default)}) == TopoMAEConfig()

    other = "else" if isinstance(default, str) else not default if isinstance(default, bool) else default + 1
    for plans, environment in (({"topomae": {knob: other}}, {}), ({}, {variable: str(other)})):
        with pytest.raises(ConfigError, match=f"{knob} = .*removed after version 0.2"):
            TopoMAEConfig.resolve(plans, environment)


def test_a_value_of_version_0_2_that_is_gone_is_an_error_that_says_so():
    for knob, values in REMOVED_VALUES.items():
        for value in values:
            with pytest.raises(ConfigError, match=f"{knob} = '{value}' .*removed after version 0.2"):
                TopoMAEConfig.from_plans({"topomae": {knob: value}})


def test_the_recipe_of_the_paper_is_what_the_page_on_the_method_lists():
    section = METHOD.read_text().split("## The paper's recipe")[1].split("\n## ")[0]
    listed = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \|", section, re.MULTILINE))
    assert listed == {
        knob: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for knob, value in RECIPES["paper"].items()
    }


def test_a_recipe_comes_before_what_is_asked_for_and_is_kept_in_the_plans():
    paper = TopoMAEConfig.resolve({}, {"NNUNET_TOPOMAE_RECIPE": " paper "})
    assert {knob: getattr(paper, knob) for knob in RECIPES["paper"]} == RECIPES["paper"]
    assert TopoMAEConfig.from_plans({"topomae": paper.to_section()}) == paper
    changed = TopoMAEConfig.resolve(
        {"topomae": {"recipe": "paper", "preset": "small"}}, {"NNUNET_TOPOMAE_VIT_VIEWS": "3"}
    )
    assert (changed.partner, changed.preset, changed.vit_views, changed.vit_steps) == ("unetrpp", "small", 3, 1)
    with pytest.raises(ConfigError, match="recipe = 'theirs' is not valid.*ours, paper"):
        TopoMAEConfig.resolve({}, {"NNUNET_TOPOMAE_RECIPE": "theirs"})


@pytest.mark.parametrize(
    ("knob", "value", "says"),
    [
        ("preset", "huge", "one of auto, tiny, small, base"),
        ("mask_ratio", "1.0", "strictly between 0 and 1"),
        ("pretrain_epochs", "ten", "takes int"),
        ("pretrain_epochs", 2.5, "takes int"),
        ("pretrain_lr", "nan", "at least 0"),
        ("pretrain_lr", float("inf"), "at least 0"),
        ("pretrain_lr", 10**400, "at least 0"),
        ("seed", 2**31, "between -1 and 2147483647"),
        ("gradient_checkpointing", "maybe", "takes bool"),
        ("topology_dimensions", "0,3", "distinct homology dimensions"),
        ("topology_dimensions", "", "distinct homology dimensions"),
    ],
)
def test_a_bad_value_is_an_error_that_says_what_is_valid(knob, value, says):
    with pytest.raises(ConfigError, match=f"{knob}.*{says}.*NNUNET_TOPOMAE_{knob.upper()}"):
        TopoMAEConfig.resolve({"topomae": {knob: value}}, {})


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


@settings(deadline=None)
@given(st.dictionaries(knob_names.map(lambda name: f"NNUNET_TOPOMAE_{name.upper()}"), st.text(max_size=12), max_size=4))
def test_any_environment_gives_a_config_or_a_config_error(environment):
    try:
        TopoMAEConfig.resolve({}, environment)
    except ConfigError as error:
        assert "NNUNET_TOPOMAE_" in str(error)


WEIGHTS_AND_RATES = r"(finetune_)?weight_.+|.+_(lr|ratio|factor|fraction|probability|tolerance|scale|clip|rate)"


@pytest.mark.parametrize("name", [k.name for k in fields(TopoMAEConfig) if re.fullmatch(WEIGHTS_AND_RATES, k.name)])
def test_the_evidence_for_a_default_is_written_down(name):
    page = (Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text()
    rows = page.split("## Where the defaults come from")[1]
    assert f"| `{name}` | `{getattr(TopoMAEConfig(), name)!r}` | " in rows


NO = "refused"
# What 0, an empty string, 1 and -1 mean, as the environment gives them.
READINGS = {
    (NO, NO, NO, NO): "recipe preset partner fusion seen_validation_cases augment_on mask_ratio topology_tolerance",
    (NO, NO, 1, NO): "pretrain_epochs finetune_epochs iterations_per_epoch val_iterations_per_epoch topology_every",
    (NO, NO, 1, -1): "vit_views vit_steps",
    (0, NO, 1, -1): "seed pretrain_lr finetune_lr vit_pretrain_lr_factor vit_finetune_lr_factor",
    (0, NO, 1, NO): "weight_decay weight_reconstruction weight_topology weight_position weight_consistency_points "
    "weight_consistency_reconstruction finetune_weight_topology topology_scale topology_place panel_every "
    "gradient_checkpointing",
    (0, NO, NO, NO): "topology_max_side",
    ((0,), NO, (1,), NO): "topology_dimensions",
    ("0", "", "1", "-1"): "pretrained",  # files of these names; empty: the fold's own
}
READING_OF = {name: readings for readings, names in READINGS.items() for name in names.split()}


@pytest.mark.parametrize("name", [knob.name for knob in fields(TopoMAEConfig)])
def test_each_knob_takes_or_refuses_nothing_one_and_minus_one(name):
    for text, reading in zip(("0", "", "1", "-1"), READING_OF[name], strict=True):
        environment = {f"NNUNET_TOPOMAE_{name.upper()}": text}
        if reading == NO:
            with pytest.raises(ConfigError, match=f"{name} = {text!r} is not valid"):
                TopoMAEConfig.resolve({}, environment)
        else:
            assert getattr(TopoMAEConfig.resolve({}, environment), name) == reading


def test_a_loss_without_any_term_is_refused():
    terms = [name for name in READING_OF if name.startswith("weight_") and name != "weight_decay"]
    with pytest.raises(ConfigError, match="are all 0: nothing is left to pre-train on"):
        TopoMAEConfig(**dict.fromkeys(terms, 0))
    for name in terms:
        assert getattr(TopoMAEConfig(**dict.fromkeys(terms, 0) | {name: 1}), name) == 1


def test_a_model_of_the_first_version_is_refused():
    """Its position embedding is not among the weights, so that it would load, and compute something else."""
    section = TopoMAEConfig().to_section() | {"topology_backend": "numba"}
    assert TopoMAEConfig.from_plans({"topomae": section}) == TopoMAEConfig()
    del section["vit_views"]
    with pytest.raises(ConfigError, match="trained with version 0.1"):
        TopoMAEConfig.from_plans({"topomae": section})
