"""A full disk is detected before a checkpoint is written, and reported in one line."""

import collections
import errno
import shutil
from pathlib import Path

import jax.numpy as jnp
import pytest
from etils import epath

from lm_jax.train import disk
from lm_jax.train.checkpoint import Checkpointer

ABOUT = {"config": {}}


@pytest.fixture
def full(monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 92, 8))


def test_a_checkpoint_that_does_not_fit_is_refused_and_the_last_one_stays(tmp_path, monkeypatch):
    state = {"params": {"w": jnp.ones(4)}}
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        checkpointer.save(1, state, ABOUT)
        checkpointer.wait()
        before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
        usage = collections.namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 92, 8))
        with pytest.raises(OSError, match="no space left for a checkpoint of 16 bytes") as caught:
            checkpointer.save(2, state, ABOUT)
        assert caught.value.errno == errno.ENOSPC
        assert checkpointer.latest() == 1
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before


def test_the_free_space_is_that_of_the_nearest_existing_directory(full, tmp_path):
    disk.check_room(tmp_path / "not" / "yet", 8)
    with pytest.raises(OSError, match="9 bytes"):
        disk.check_room(tmp_path / "not" / "yet", 9)
    disk.check_room(epath.Path("gs://bucket/run"), 9)


def test_a_system_error_of_tensorstore_becomes_an_os_error():
    error = disk.as_os_error(ValueError("RESOURCE_EXHAUSTED: Error writing x"), Path("checkpoints/3"))
    assert isinstance(error, OSError) and (error.errno, error.filename) == (errno.ENOSPC, "checkpoints/3")
    other = ValueError("shapes differ")
    assert disk.as_os_error(other, Path("checkpoints/3")) is other


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 1), (errno.EDQUOT, 1), (errno.EROFS, 2), (errno.EACCES, 2)]
)
def test_an_os_error_is_reported_in_one_line(number, code, monkeypatch, capsys):
    from lm_jax import flags, main

    def refused(*_):
        raise OSError(number, "no luck", "/somewhere/file")

    monkeypatch.setattr(flags, "parse", refused)
    assert main.main(["lm-jax", "train"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lm-jax train: /somewhere/file: no luck; ")


def test_ctrl_c_is_one_line_and_exits_with_130(monkeypatch, capsys):
    from lm_jax import flags, main

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(flags, "parse", interrupted)
    assert main.main(["lm-jax", "train"]) == 130
    assert capsys.readouterr().err == "lm-jax train: interrupted\n"
