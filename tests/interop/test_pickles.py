"""Weights in other formats are refused in one line, and the printed command converts them."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.interop import safetensors

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 440473133\n"


def refusal(folder):
    """The message, on one line, that refuses a directory."""
    with pytest.raises(InputError) as error:
        safetensors.entries(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def command(folder):
    return refusal(folder).partition("have torch: ")[2]


def test_other_files_of_trainers_are_not_mistaken_for_weights(tmp_path):
    for name in ("optimizer.pt", "training_args.bin", "scheduler.pt", "rng_state_0.pth", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"pickled")
    words = shlex.split(command(tmp_path))
    assert words[-2:] == [str(tmp_path / "model.safetensors"), str(tmp_path / "pytorch_model.bin")]


def test_shards_are_converted_together(tmp_path):
    for number in (1, 2):
        (tmp_path / f"pytorch_model-0000{number}-of-00002.bin").write_bytes(b"pickled")
    assert command(tmp_path).endswith("/pytorch_model-*-of-*.bin")


def test_a_git_lfs_pointer_in_place_of_weights_is_recognised(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(POINTER)
    assert "Git LFS pointer" in refusal(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(POINTER)
    assert "model.safetensors is a Git LFS pointer" in refusal(tmp_path)


def test_a_broken_link_and_files_with_other_names_are_named(tmp_path):
    (tmp_path / "adapter.safetensors").write_bytes(b"")
    assert "but adapter.safetensors" in refusal(tmp_path)
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs" / "lost")
    assert "a link to a missing file" in refusal(tmp_path)


def test_shards_without_an_index_are_read_if_they_are_complete(tmp_path):
    arrays = {name: np.full(30, number, np.float32) for number, name in enumerate("abc")}
    tensors = [safetensors.Tensor(name, x.shape, x.dtype, lambda x=x: x) for name, x in arrays.items()]
    files = safetensors.write(tmp_path, tensors, largest=100)
    (tmp_path / safetensors.INDEX).unlink()
    for name, entry in safetensors.entries(tmp_path).items():
        np.testing.assert_array_equal(entry.read(), arrays[name])
    files[1].unlink()
    assert files[0].name in refusal(tmp_path)


@pytest.mark.parity_live
@pytest.mark.parametrize("form", ["one", "shards", "wrapped", "legacy"])
def test_the_printed_command_converts_what_torch_wrote(tmp_path, form):
    torch = pytest.importorskip("torch", reason="needs torch, which is not installed")
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    table = torch.randn(5, 3)
    weights = {"wte": table, "lm_head": table, "transposed": torch.randn(4, 2).T, "ids": torch.arange(3)}
    torch.save({"lr": 0.1}, folder / "training_args.bin")
    if form == "shards":
        shards = [dict(list(weights.items())[:2]), dict(list(weights.items())[2:])]
        for number, shard in enumerate(shards, 1):
            torch.save(shard, folder / f"pytorch_model-0000{number}-of-00002.bin")
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {}}))
    elif form == "wrapped":
        torch.save({"state_dict": weights, "epoch": 3}, folder / "last.ckpt")
    else:
        torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=form == "one")
    line = command(folder).replace("python -c", f"{shlex.quote(sys.executable)} -c", 1)
    subprocess.run(["bash", "-c", line], check=True)
    entries = safetensors.entries(folder)
    assert set(entries) == set(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(entries[name].read(), array.numpy())
