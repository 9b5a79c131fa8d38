"""Conversion between ConfigDicts and dataclasses is strict, and its errors say what to do."""

import dataclasses
import json

import ml_collections
import pytest

from lm_jax.core.config import (
    InputError,
    Tree,
    differences,
    free_keys,
    from_config_dict,
    lookup,
    merge,
    replace_fields,
    setting,
    to_config_dict,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    name: str = "cosine"
    steps: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    width: int
    tied: bool = True
    patterns: tuple[str, ...] = ("bias$",)
    inner: Inner = Inner()
    cross: Inner | None = None


def test_a_tree_survives_a_round_trip():
    config = Outer(width=8, patterns=("a", "b"), inner=Inner(rate=0.25, steps=3), cross=Inner(name="linear"))
    assert from_config_dict(Outer, to_config_dict(config)) == config


def test_unset_fields_can_be_overridden_with_their_own_type_only():
    tree = to_config_dict(Outer(width=8))
    assert tree.inner.steps is None
    tree.inner.steps = 7
    assert from_config_dict(Outer, tree).inner.steps == 7
    with pytest.raises(TypeError):
        tree.inner.steps = "seven"


def test_unset_trees_stay_unset():
    assert from_config_dict(Outer, to_config_dict(Outer(width=8))).cross is None


def test_missing_fields_keep_their_defaults():
    config = from_config_dict(Outer, {"width": 8, "inner": {"name": "linear"}})
    assert config == Outer(width=8, inner=Inner(name="linear"))


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(InputError, match=r"unknown key config\.inner\.rte; did you mean rate\?"):
        from_config_dict(Outer, {"width": 8, "inner": {"rte": 0.1}})


def test_an_unknown_key_without_a_near_one_lists_the_known_ones():
    with pytest.raises(InputError, match=r"unknown key config\.inner\.zzzz; known: rate, name, steps"):
        from_config_dict(Outer, {"width": 8, "inner": {"zzzz": 0.1}})


def test_a_missing_field_says_how_to_set_it():
    with pytest.raises(InputError, match=r"config\.width is not set and has no default; set it with --config\.width="):
        from_config_dict(Outer, {})


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"width": "8"}, r"config\.width is '8' \(str\); expected int"),
        ({"width": 8.0}, r"config\.width is 8\.0 \(float\); expected int"),
        ({"width": True}, r"config\.width is True \(bool\); expected int"),
        ({"width": None}, r"config\.width is None; expected int"),
        ({"width": 8, "tied": 1}, r"config\.tied is 1 \(int\); expected bool"),
        ({"width": 8, "inner": {"rate": True}}, r"config\.inner\.rate is True \(bool\); expected float"),
        ({"width": 8, "inner": 3}, r"config\.inner is 3; expected a tree of rate, name, steps"),
        ({"width": 8, "patterns": "bias$"}, r"config\.patterns is 'bias\$'; expected a tuple"),
        ({"width": 8, "patterns": ("a", 1)}, r"config\.patterns\[1\] is 1 \(int\); expected str"),
    ],
)
def test_a_wrong_type_names_the_value_and_the_expected_type(tree, message):
    with pytest.raises(InputError, match=message) as caught:
        from_config_dict(Outer, tree)
    assert "\n" not in str(caught.value)


def test_an_int_becomes_a_float_in_a_float_field():
    rate = from_config_dict(Outer, {"width": 8, "inner": {"rate": 1}}).inner.rate
    assert rate == 1.0
    assert type(rate) is float


def test_lists_from_json_become_tuples():
    assert from_config_dict(Outer, {"width": 8, "patterns": ["a", "b"]}).patterns == ("a", "b")


def test_merge_takes_the_new_values_and_does_not_change_the_base():
    base = to_config_dict(Outer(width=8))
    merged = merge(base, {"width": 16, "inner": {"steps": 5}})
    assert (merged.width, merged.inner.steps, merged.inner.rate) == (16, 5, 0.5)
    assert (base.width, base.inner.steps) == (8, None)


def test_merge_refuses_keys_that_are_not_in_the_base():
    with pytest.raises(InputError, match=r"unknown key config\.inner\.rates; did you mean rate\?"):
        merge(to_config_dict(Outer(width=8)), {"inner": {"rates": 1.0}})


def test_differences_name_every_leaf_that_changed():
    before, after = to_config_dict(Outer(width=8)), to_config_dict(Outer(width=9, inner=Inner(name="linear")))
    assert differences(before, after) == ["config.inner.name: 'cosine' -> 'linear'", "config.width: 8 -> 9"]


def test_a_round_trip_through_json_makes_no_difference():
    tree = to_config_dict(Outer(width=8))
    assert differences(ml_collections.ConfigDict.to_dict(tree) | {"patterns": ["bias$"]}, tree) == []


def test_an_unknown_choice_lists_the_choices():
    with pytest.raises(InputError, match=r"config\.x is 'adamv'; expected one of adamw, lion; did you mean adamw\?"):
        lookup({"adamw": 1, "lion": 2}, "adamv", "config.x")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named:
    inner: Inner = Inner()
    kinds: Tree = Tree()


def test_user_defined_names_survive_a_round_trip_and_can_be_hashed():
    kinds = Tree(near=Tree(inner=Tree(steps=3), shape=(1, 2)))
    named = Named(kinds=kinds)
    tree = to_config_dict(named)
    assert from_config_dict(Named, tree) == named
    assert hash(from_config_dict(Named, json.loads(tree.to_json()))) == hash(named)
    tree.kinds.near.inner.steps = 4
    assert from_config_dict(Named, tree).kinds["near"]["inner"]["steps"] == 4
    assert kinds["near"]["inner"]["steps"] == 3


def test_merge_lets_an_empty_tree_take_any_names():
    recipe = ml_collections.ConfigDict({"kinds": {"near": {"inner": {"steps": 3}}}})
    merged = merge(to_config_dict(Named()), recipe)
    assert from_config_dict(Named, merged).kinds == {"near": {"inner": {"steps": 3}}}


def test_a_sparse_tree_replaces_its_fields_only():
    named = replace_fields(Named(), {"inner": {"rate": 2}}, "stack.kinds.near")
    assert named == Named(inner=Inner(rate=2.0))
    with pytest.raises(InputError, match=r"unknown key stack\.kinds\.near\.inner\.raet; did you mean rate"):
        replace_fields(Named(), {"inner": {"raet": 2}}, "stack.kinds.near")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounded:
    rate: float = setting(0.1, free=True, at_least=0, below=1)
    sizes: tuple[int, ...] = setting((), at_least=1)
    path: str = setting("", local=True)
    deeper: Inner = setting(Inner(), free=True)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"rate": -0.1}, "config.rate is -0.1; expected a number at least 0 and below 1"),
        ({"rate": 1}, "config.rate is 1.0"),
        ({"rate": float("nan")}, "config.rate is nan"),
        ({"rate": float("inf")}, "config.rate is inf"),
        ({"sizes": (2, 0)}, r"config.sizes is \(2, 0\); expected a number at least 1"),
        ({"path": "gs://bucket/x"}, "config.path is gs://bucket/x; expected a path on this machine"),
        ({"path": "a.txt, s3://bucket/x"}, "config.path is s3://bucket/x"),
        ({"path": "gs:/bucket/x"}, "config.path is gs:/bucket/x"),
    ],
)
def test_a_value_out_of_bounds_names_the_bounds(tree, message):
    with pytest.raises(InputError, match=message):
        from_config_dict(Bounded, tree)


@pytest.mark.parametrize("path", ["tfds:name", "a:b.txt", "/a/b", "C/d", ""])
def test_names_with_a_colon_are_paths(path):
    assert from_config_dict(Bounded, {"path": path}).path == path


def test_free_keys_are_fields_and_whole_subtrees():
    assert free_keys(Bounded) == ["config.rate", "config.deeper"]


def test_merge_converts_an_int_to_a_float_in_a_float_field():
    merged = merge(to_config_dict(Bounded()), {"rate": 0})
    assert type(merged.rate) is float and merged.get_type("rate") is float
