"""Git LFS pointers are distinguished from other files."""

import pytest

from lm_jax.core import pointers
from lm_jax.core.config import InputError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 440473133\n"


def test_a_pointer_is_refused_with_advice(tmp_path):
    (tmp_path / "model.safetensors").write_text(POINTER)
    message = r"Git LFS pointer, a placeholder for 440,473,133 bytes; .*git lfs pull"
    with pytest.raises(InputError, match=message) as error:
        pointers.refuse(tmp_path / "model.safetensors")
    assert "\n" not in str(error.value)


def test_other_and_missing_files_are_ignored(tmp_path):
    (tmp_path / "vocab.txt").write_text("version\nhttps\n")
    assert pointers.refuse(tmp_path / "vocab.txt") is None
    assert pointers.refuse(tmp_path / "absent") is None
    assert (tmp_path / "vocab.txt").read_text() == "version\nhttps\n"
