"""Error messages for directories without safetensors, and the command that converts pickled weights."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from lm_jax.core import pointers
from lm_jax.core.config import InputError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Files that trainers write beside the weights.
_EXTRAS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state\w*|sentencepiece.*)\.\w+")
_SHARD = re.compile(r"(.*)-\d+-of-\d+(\.\w+)")
# Safetensors under other names, and files of other frameworks.
_OTHERS = ("*.safetensors", "*.h5", "*.msgpack", "*.gguf", "*.onnx")

# Trainers nest the weights in a dictionary. Tensors are cloned: safetensors refuses tied ones, which share memory.
_CONVERT = (
    "import sys, torch; from safetensors.torch import save_file; "
    "read = lambda f: torch.load(f, map_location='cpu', weights_only=True); "
    "inner = lambda d: next((d[k] for k in ('state_dict', 'model', 'module') if isinstance(d.get(k), dict)), d); "
    "t = {k: v for f in sys.argv[2:] for k, v in inner(read(f)).items() if torch.is_tensor(v)}; "
    "save_file({k: v.clone(memory_format=torch.contiguous_format) for k, v in t.items()}, sys.argv[1], "
    "{'format': 'pt'})"
)


def refusal(directory: Path, single: str, index: str) -> InputError:
    """Returns the error for a directory without the files `single` and `index`."""
    broken = [file.name for file in (directory / single, directory / index) if file.is_symlink()]
    if broken:
        return InputError(f"{directory / broken[0]} is a link to a missing file; download the checkpoint again")
    for file in sorted(file for kind in _PICKLES for file in directory.glob(kind)):
        pointers.refuse(file)
    if pickled := _pickled(directory):
        return InputError(
            f"{directory} holds {pickled}, a pickle, which can run any code when it is read, and is refused; if you "
            f"trust it and have torch: {command(directory, single)}"
        )
    others = sorted(file.name for kind in _OTHERS for file in directory.glob(kind))
    instead = f" but {', '.join(others[:3])}" if others else ""
    return InputError(
        f"{directory} holds no {single} and no {index}{instead}; give the directory of a Hugging Face checkpoint"
    )


def command(directory: Path, single: str) -> str:
    """Returns the shell command that converts a directory's pickled weights to the file `single`."""
    pickled, here = _pickled(directory), shlex.quote(str(directory))
    return f'python -c "{_CONVERT}" {here}/{single} {here}/{pickled}'


def _pickled(directory: Path) -> str:
    """The file name of the pickled weights, or a pattern for their shards; empty if there are none."""
    names = sorted(file.name for kind in _PICKLES for file in directory.glob(kind) if not _EXTRAS.fullmatch(file.name))
    # Names that transformers writes come first.
    names.sort(key=lambda name: not name.startswith("pytorch_model"))
    if not names:
        return ""
    shard = _SHARD.fullmatch(names[0])
    return f"{shard[1]}-*-of-*{shard[2]}" if shard else names[0]
