"""PEFT directories of learned tokens: PROMPT_TUNING and PREFIX_TUNING, one tensor `prompt_embeddings`.

A soft prompt is stored as rows of the token table. Of a prefix, each row has the keys and values of all layers: key and
value of layer 0, of layer 1, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_jax.core.config import InputError
from lm_jax.core.trees import Params, flatten
from lm_jax.interop import peft, peft_files, safetensors
from lm_jax.models.config import ModelConfig
from lm_jax.models.prompts import PREFIX, PROMPT

TYPES = {"PROMPT_TUNING": "prompt", "PREFIX_TUNING": "prefix"}
TENSOR, EMBEDDING = "prompt_embeddings", f"{PROMPT}/embedding"
# Fields of adapter_config.json that are read, or do not change what a trained adapter computes.
READ = frozenset(
    """task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode num_virtual_tokens
    token_dim num_transformer_submodules num_attention_heads num_layers prompt_tuning_init prompt_tuning_init_text
    tokenizer_name_or_path tokenizer_kwargs encoder_hidden_size init_weights""".split()
)
Places = Mapping[str, Sequence[tuple[str, peft.Place]]]


def check(config: ModelConfig, method: str, has_task: bool) -> None:
    """Refuses a model whose learned tokens mean something else in PEFT."""
    reason = None
    if has_task:
        reason = "has the head of a task, which PEFT lets read the first learned token instead of the first of the text"
    elif config.kind == "encoder" or (method == "prefix" and config.kind != "decoder"):
        reason = f"is an {config.kind.replace('_', '-')}, whose {method} PEFT does not have in the same places"
    elif config.embed.scale:
        reason = "scales its embeddings, and PEFT scales learned ones for some classes only"
    if reason:
        raise InputError(f"the run of the method {method!r} {reason}; use that run itself, without --format=peft")


def write(folder: Path, leaves: Mapping[str, np.ndarray], where: Places, architecture: str) -> None:
    """Writes the learned tokens among parameters by path; `where` has the `peft.places` of all projections."""
    tree: dict[str, Any] = {
        "base_model_name_or_path": None,
        "inference_mode": True,
        "num_transformer_submodules": 1,
        "task_type": peft_files.task_type(architecture),
    }
    if EMBEDDING in leaves:
        array = leaves[EMBEDDING]
        tree |= {"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "RANDOM"}
    else:
        keys, rows = _keys(where), dict[int, np.ndarray]()
        heads = leaves[f"{keys[0].module}/{PREFIX}/key"].shape[2]
        for each in keys:
            for offset, name in enumerate(("key", "value")):
                own = leaves[f"{each.module}/{PREFIX}/{name}"][each.row]
                rows[2 * each.layer + offset] = own.reshape(len(own), -1)[:, each.columns(name)]
        array = np.concatenate([rows[number] for number in range(len(rows))], 1)
        sizes = {"num_attention_heads": heads, "num_layers": len(keys), "token_dim": rows[0].shape[1]}
        tree |= {"peft_type": "PREFIX_TUNING", "prefix_projection": False, **sizes}
    tree["num_virtual_tokens"] = len(array)
    tensor = safetensors.Tensor(TENSOR, array.shape, np.dtype(np.float32), lambda: np.asarray(array, np.float32))
    peft_files.write(folder, [tensor], tree)


def load(folder: Path, config: ModelConfig, where: Places, shapes: Params) -> peft_files.Loaded:
    """Reads a directory as settings of `config.adapt` and parameters by path.

    Raises:
      InputError: the file is damaged, or for another base or another kind of prompt.
    """
    tree = peft_files.read(folder)
    method = TYPES[tree["peft_type"]]
    check(config, method, False)
    peft_files.check_fields(folder, tree, READ)
    stored = safetensors.header(folder / peft_files.WEIGHTS)
    if {*stored} != {TENSOR}:
        raise InputError(f"{folder / peft_files.WEIGHTS} has {', '.join(sorted(stored))}; expected {TENSOR} alone")
    array = np.asarray(stored[TENSOR].read(), np.float32)
    sizes = {path: leaf.shape for path, leaf in flatten(shapes).items()}
    if method == "prompt":
        width = sizes["token/embedding"][1]
        if array.ndim != 2 or array.shape[1] != width:
            raise _other_base(folder, array, f"[tokens, {width}]")
        # An encoder-decoder's second half is for a decoder, which does not read it.
        array = array[: int(tree.get("num_virtual_tokens") or len(array))]
        return peft_files.Loaded({"method": method, "tokens": len(array)}, {EMBEDDING: array})
    keys, leaves = _keys(where), dict[str, np.ndarray]()
    width = 2 * sum(len(each.order) for each in keys)
    if array.ndim != 2 or array.shape[1] != width:
        raise _other_base(folder, array, f"[tokens, {width}]")
    parts = np.split(array, 2 * len(keys), 1)
    for each in keys:
        depth, _, *own = sizes[f"{each.module}/key/kernel"]
        for offset, name in enumerate(("key", "value")):
            path = f"{each.module}/{PREFIX}/{name}"
            leaf = leaves.setdefault(path, np.zeros((depth, len(array), *own), np.float32))
            leaf[each.row].reshape(len(array), -1)[:, each.columns(name)] = parts[2 * each.layer + offset]
    return peft_files.Loaded({"method": method, "tokens": len(array)}, leaves)


def _other_base(folder: Path, array: np.ndarray, expected: str) -> InputError:
    return InputError(
        f"{folder} has {TENSOR} {list(array.shape)}, and the base expects {expected}; give the base that it was "
        "trained on"
    )


class _Keys(NamedTuple):
    """The attention of a layer.

    Attributes:
      module: its path in our parameters.
      layer: its number in the stack.
      row: its row in the parameters of `module`.
      order: our key feature of each of theirs.
    """

    module: str
    layer: int
    row: int
    order: np.ndarray

    def columns(self, name: str) -> np.ndarray:
        """Our feature of each of theirs; families reorder the features of keys, never of values."""
        return self.order if name == "key" else np.arange(len(self.order))


def _keys(where: Places) -> list[_Keys]:
    return [
        _Keys(kernel.removesuffix("/key/kernel"), int(name.split("/")[1]), row, place.outputs[place.outputs >= 0])
        for kernel, rows in where.items()
        if kernel.endswith("/attention/key/kernel")
        for row, (name, place) in enumerate(rows)
    ]
