"""Reading config.json and overriding its fields."""

import pytest

from lm_jax.core.config import InputError
from lm_jax.interop import document


def test_a_field_is_json_or_text_and_an_empty_text_drops_it():
    tree = {"hidden_size": 32, "hidden_act": "gelu", "attention_sinks": 4}
    over = {"hidden_size": "64", "hidden_act": "relu", "architectures": '["BertModel"]', "attention_sinks": ""}
    assert document.override(tree, over) == {"hidden_size": 64, "hidden_act": "relu", "architectures": ["BertModel"]}
    assert tree["hidden_size"] == 32


def test_a_missing_field_cannot_be_dropped():
    with pytest.raises(InputError, match=r"--hf\.hiden_size= .*did you mean hidden_size"):
        document.override({"hidden_size": 32}, {"hiden_size": ""})


def test_the_snapshots_of_a_hub_cache_are_named(tmp_path):
    (tmp_path / "snapshots" / "abc").mkdir(parents=True)
    (tmp_path / "snapshots" / "abc" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"no config\.json; give .*snapshots/abc"):
        document.read(tmp_path)


def test_a_git_lfs_pointer_in_place_of_settings_is_recognised(tmp_path):
    (tmp_path / "config.json").write_text("version https://git-lfs.github.com/spec/v1\nsize 570\n")
    with pytest.raises(InputError, match="Git LFS pointer"):
        document.read(tmp_path)
