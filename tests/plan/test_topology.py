"""Names of topologies become devices, or one line that says what was expected."""

import importlib.util
import os

import pytest

from lm_jax.core.chips import CHIPS
from lm_jax.core.config import InputError
from lm_jax.plan import topology


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e:16x61", None),
        ("v5f:16x16", "'v5f:16x16'; expected a family of v4, v5e, v5p, v6e, tpu7x, h100; did you mean v5e:16x16?"),
        ("v5e:4x4x4", "expected v5e:AxB; did you mean v5p:4x4x4?|expected v5e:AxB; did you mean v5e:4x4?"),
        ("v5p:4x4", "expected v5p:AxBxC"),
        ("v5e", "expected v5e:AxB"),
        ("v5e:0x4", "expected v5e:AxB"),
        ("h100:2x4", "expected h100:A"),
    ],
)
def test_a_malformed_topology_is_one_line_with_the_nearest_name(name, message):
    if message is None:
        assert topology.split(name) == ("v5e", (16, 61))
        return
    with pytest.raises(InputError) as error:
        topology.split(name)
    assert any(part in str(error.value) for part in message.split("|"))


def test_every_suggested_name_has_the_axes_of_its_family():
    assert {topology.split(name)[0] for name in topology.NAMES} == set(CHIPS)


def test_a_missing_compiler_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'lm_jax\[aot\]'"):
        topology.devices("v5e:4x4")


def test_gpus_fill_hosts_and_have_no_slices(monkeypatch):
    with pytest.raises(InputError, match="not a number of whole hosts of 8 devices; use h100:8 or h100:16"):
        topology.devices("h100:12")
    with pytest.raises(InputError, match="GPUs have no slices; name all of them, such as h100:16"):
        topology.devices("h100:8", 2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"plugin for CUDA, which is not installed; run pip install 'lm_jax\[cuda\]'"):
        topology.devices("h100:8")


def test_no_slices_are_refused():
    with pytest.raises(InputError, match="--slices is 0; expected at least 1"):
        topology.devices("v5e:4x4", 0)


def test_quiet_hides_what_a_library_writes_and_restores_the_stream(capfd):
    with topology.quiet():
        os.write(2, b"noise")
    os.write(2, b"news")
    assert capfd.readouterr().err == "news"
