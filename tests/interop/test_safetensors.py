"""Reading and writing safetensors files."""

import json

import ml_dtypes
import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.interop import safetensors
from lm_jax.interop.safetensors import Tensor


def tensor(name, array):
    return Tensor(name, array.shape, array.dtype, lambda: array)


def arrays():
    count = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    return {
        "a.weight": count,
        "b.half": count.astype(np.float16),
        "c.brain": count.astype(ml_dtypes.bfloat16),
        "d.ids": np.arange(5, dtype=np.int64),
        "e.scalar": np.array(3.5, np.float32),
        "f.empty": np.zeros((0, 4), np.float32),
    }


def test_written_tensors_are_read_back(tmp_path):
    safetensors.write(tmp_path, [tensor(name, array) for name, array in arrays().items()])
    entries = safetensors.entries(tmp_path)
    assert list(entries) == list(arrays())
    for name, array in arrays().items():
        assert entries[name].dtype == array.dtype
        np.testing.assert_array_equal(entries[name].read(), array)


def test_the_reference_library_reads_our_files_and_we_read_its_files(tmp_path):
    from safetensors.numpy import load_file, save_file

    standard = {name: array for name, array in arrays().items() if array.dtype != ml_dtypes.bfloat16}
    safetensors.write(tmp_path, [tensor(name, array) for name, array in standard.items()])
    theirs = load_file(tmp_path / "model.safetensors")
    save_file(standard, tmp_path / "theirs.safetensors")
    ours = safetensors.header(tmp_path / "theirs.safetensors")
    assert set(theirs) == set(ours) == set(standard)
    for name, array in standard.items():
        np.testing.assert_array_equal(theirs[name], array)
        np.testing.assert_array_equal(ours[name].read(), array)


def test_large_checkpoints_are_split_into_shards_with_an_index(tmp_path):
    files = safetensors.write(tmp_path, [tensor(name, array) for name, array in arrays().items()], largest=100)
    assert [file.name for file in files][0] == f"model-00001-of-{len(files):05}.safetensors"
    assert len(files) > 1 and not (tmp_path / "model.safetensors").exists()
    assert json.loads((tmp_path / safetensors.INDEX).read_text())["weight_map"]["d.ids"] in {f.name for f in files}
    for name, array in arrays().items():
        np.testing.assert_array_equal(safetensors.entries(tmp_path)[name].read(), array)


def test_a_missing_shard_is_named(tmp_path):
    files = safetensors.write(tmp_path, [tensor(name, array) for name, array in arrays().items()], largest=100)
    files[1].unlink()
    with pytest.raises(InputError, match=files[1].name):
        safetensors.entries(tmp_path)


def test_an_index_that_leads_elsewhere_is_refused(tmp_path):
    (tmp_path / safetensors.INDEX).write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(InputError, match="not a file beside it"):
        safetensors.entries(tmp_path)


@pytest.mark.parametrize("size", [0, 4, 60, 200])
def test_a_truncated_file_is_an_error_and_not_wrong_numbers(tmp_path, size):
    (file,) = safetensors.write(tmp_path, [tensor(name, array) for name, array in arrays().items()])
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(InputError, match="damaged"):
        safetensors.entries(tmp_path)


def test_a_pickle_is_refused_with_the_command_that_converts_it(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(InputError, match="weights_only=True") as error:
        safetensors.entries(tmp_path)
    assert "\n" not in str(error.value)


def test_a_failed_write_leaves_nothing(tmp_path):
    def broken():
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        safetensors.write(tmp_path, [Tensor("a", (2,), np.dtype(np.float32), broken)])
    assert not list(tmp_path.iterdir())
