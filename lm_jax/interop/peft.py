"""Adapter directories of PEFT (github.com/huggingface/peft): adapter_config.json and adapter_model.safetensors.

Their modules are those of the base's Hugging Face class. One module may be several of our projections (fused queries,
keys and values): their low-rank products are then the blocks of one product, whose rank is the sum of theirs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from lm_jax.core.config import InputError
from lm_jax.core.trees import Params, flatten
from lm_jax.interop import huggingface, peft_files, safetensors
from lm_jax.interop.rules import Rule, Rules
from lm_jax.models.axes import by_path, joined_shape, split_shape
from lm_jax.models.config import ModelConfig

PREFIX = "base_model.model."
# Fields of adapter_config.json that are read, or do not change what a trained adapter computes.
READ = frozenset(
    """task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode r target_modules
    exclude_modules lora_alpha lora_dropout fan_in_fan_out use_rslora modules_to_save layers_to_transform layers_pattern
    rank_pattern alpha_pattern megatron_core use_dora qalora_group_size feedforward_modules init_ia3_weights
    ensure_weight_tying""".split()
)
# Values of other fields that do not; all further fields must be unset. Other initialisations change the base.
READABLE = {"bias": ("none",), "init_lora_weights": (True, "gaussian", "orthogonal")}


class Place(NamedTuple):
    """Where a projection of ours is in a module of theirs.

    Attributes:
      module: its name in their class.
      inputs: our input of each of their inputs.
      outputs: our output of each of their outputs; -1: of another projection.
    """

    module: str
    inputs: Int[np.ndarray, " in"]
    outputs: Int[np.ndarray, " out"]


def places(rules: Rules, config: ModelConfig, shapes: Params, axes: Params) -> dict[str, list[tuple[str, Place]]]:
    """Every layer's projections, as `stack/3/attention/query` with their places, by the path of their stacked kernel.

    Rules are probed with the numbers of inputs and outputs instead of weights.
    """
    where, leaves, names = huggingface.places(config, shapes), flatten(shapes), by_path(axes)
    found: dict[str, list[tuple[str, Place]]] = {}
    for rule in rules:
        kernels = [path for path in rule.ours if path.endswith("/kernel")]
        if not kernels or len(rule.theirs) != 1:
            continue
        stacked = [huggingface.place(where, path) for path in rule.ours]
        if any(row is None for _, row in stacked):
            continue
        sizes = [joined_shape(names[leaf], leaves[leaf].shape) for leaf, _ in stacked]
        for index, path in enumerate(rule.ours):
            place = _probed(rule, [leaves[leaf].shape[1:] for leaf, _ in stacked], sizes, index)
            found.setdefault(stacked[index][0], []).append((path.removesuffix("/kernel"), place))
    return found


def _probed(rule: Rule, shapes: Sequence[tuple[int, ...]], sizes: Sequence[tuple[int, ...]], index: int) -> Place:
    size_in, size_out = sizes[index][-2:]
    numbers = np.arange(size_in)[:, None], np.arange(size_out)[None]
    saved = []
    for number in numbers:
        parts = [np.full(shape, -1) for shape in shapes]
        parts[index] = np.broadcast_to(number, (size_in, size_out)).reshape(shapes[index])
        saved.append(np.asarray(rule.save(*parts)[0]))
    ins, outs = saved
    if not (outs == outs[:, :1]).all():
        # Conv1D stores [in, out].
        ins, outs = ins.T, outs.T
    row = int(np.flatnonzero(outs[:, 0] >= 0)[0])
    return Place(rule.theirs[0].removesuffix(".weight"), ins[row], outs[:, 0])


def low_rank(
    parts: Sequence[tuple[Place, Mapping[str, np.ndarray]]], method: str
) -> tuple[dict[str, np.ndarray], float]:
    """The tensors of a module, and PEFT's `lora_alpha`, from the `lora` parameters of its projections in a layer."""
    scale, downs, ups = float(parts[0][1]["scale"]), [], []
    for place, lora in parts:
        down = lora["down"].reshape(len(place.inputs), -1)
        up = lora["up"].reshape(down.shape[1], -1) * (float(lora["scale"]) / scale)
        downs.append(down[place.inputs].T)
        ups.append(np.where(place.outputs >= 0, up[:, np.maximum(place.outputs, 0)], 0).T)
    tensors = {"lora_A.weight": np.concatenate(downs), "lora_B.weight": np.concatenate(ups, 1)}
    rank = tensors["lora_A.weight"].shape[0]
    if method == "dora":
        if len(parts) > 1:
            raise InputError(
                f"{parts[0][0].module} is several projections of this model, whose norms DoRA trains apart; PEFT "
                "cannot express that: export without --format=peft, which merges them"
            )
        tensors["lora_magnitude_vector"] = parts[0][1]["magnitude"].reshape(-1)[parts[0][0].outputs]
    return tensors, scale * (rank**0.5 if method == "rslora" else rank)


def factors(parts: Sequence[tuple[Place, Mapping[str, np.ndarray]]]) -> dict[str, np.ndarray]:
    """The tensor of a module from the `ia3` parameters of its projections in a layer."""
    place, ia3 = parts[0]
    if "inputs" in ia3:
        return {"ia3_l": ia3["inputs"].reshape(-1)[place.inputs][None]}
    column = np.ones(len(place.outputs), np.float32)
    for place, ia3 in parts:
        ours = place.outputs >= 0
        column[ours] = ia3["outputs"].reshape(-1)[place.outputs[ours]]
    return {"ia3_l": column[:, None]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """What a directory holds.

    Attributes:
      method: lora, rslora, dora or ia3.
      tensors: by module and name, such as `lora_A.weight`.
      alphas: `lora_alpha` by module.
      saved: the other tensors, such as those of a head, under the names of the base's class.
    """

    method: str
    tensors: Mapping[str, Mapping[str, np.ndarray]]
    alphas: Mapping[str, float]
    saved: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def collect(where: Mapping[str, Sequence[tuple[str, Place]]], leaves: Mapping[str, np.ndarray], method: str) -> Adapter:
    """The adapter of parameters by path, without tensors of a head; `where` has the `places` of all projections."""
    parts: dict[str, list[tuple[Place, dict[str, np.ndarray]]]] = {}
    kind = "ia3" if method == "ia3" else "lora"
    for kernel, rows in where.items():
        prefix = f"{kernel.removesuffix('/kernel')}/{kind}/"
        own = {path.removeprefix(prefix): leaf for path, leaf in leaves.items() if path.startswith(prefix)}
        for layer, (_, place) in enumerate(rows if own else ()):
            parts.setdefault(place.module, []).append((place, {name: leaf[layer] for name, leaf in own.items()}))
    tensors, alphas = dict[str, dict[str, np.ndarray]](), dict[str, float]()
    for module, each in parts.items():
        if kind == "ia3":
            tensors[module] = factors(each)
        else:
            tensors[module], alphas[module] = low_rank(each, method)
    return Adapter(method=method, tensors=tensors, alphas=alphas)


def write(folder: Path, adapter: Adapter, architecture: str) -> None:
    """Writes a directory, which does not say where its base is; `architecture` is the class of the base."""
    stored = {
        f"{PREFIX}{module}.{name}": tensor
        for module, named in adapter.tensors.items()
        for name, tensor in named.items()
    }
    stored |= {f"{PREFIX}{name}": tensor for name, tensor in adapter.saved.items()}
    tensors = [
        safetensors.Tensor(name, array.shape, np.dtype(np.float32), lambda array=array: array)
        for name, array in stored.items()
    ]
    peft_files.write(folder, tensors, _config(adapter, architecture))


def _config(adapter: Adapter, architecture: str) -> dict[str, Any]:
    modules = sorted(adapter.tensors)
    tree: dict[str, Any] = {
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": modules,
        "task_type": peft_files.task_type(architecture),
    }
    if heads := sorted({name.rpartition(".")[0] for name in adapter.saved}):
        tree["modules_to_save"] = heads
    if adapter.method == "ia3":
        inner = [module for module in modules if adapter.tensors[module]["ia3_l"].shape[0] == 1]
        return {**tree, "peft_type": "IA3", "feedforward_modules": inner}
    ranks = {module: adapter.tensors[module]["lora_A.weight"].shape[0] for module in modules}
    rank, alpha = ranks[modules[0]], adapter.alphas[modules[0]]
    return {
        **tree,
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "rank_pattern": {module: each for module, each in ranks.items() if each != rank},
        "alpha_pattern": {module: each for module, each in adapter.alphas.items() if each != alpha},
        "use_rslora": adapter.method == "rslora",
        "use_dora": adapter.method == "dora",
    }


def read(folder: Path) -> Adapter:
    """Reads a directory of low-rank products or factors.

    Raises:
      InputError: a file is missing or damaged, or the adapter is of another kind.
    """
    tree = peft_files.read(folder)
    kind = tree["peft_type"]
    if kind not in ("LORA", "IA3"):
        raise InputError(
            f"{folder / peft_files.CONFIG} has peft_type {kind!r}; expected LORA, IA3, PROMPT_TUNING or PREFIX_TUNING"
        )
    peft_files.check_fields(folder, tree, READ, READABLE)
    method = (
        "ia3" if kind == "IA3" else "dora" if tree.get("use_dora") else "rslora" if tree.get("use_rslora") else "lora"
    )
    tensors: dict[str, dict[str, np.ndarray]] = {}
    saved = {}
    for name, entry in safetensors.header(folder / peft_files.WEIGHTS).items():
        name, array = name.removeprefix(PREFIX), np.asarray(entry.read(), np.float32)
        module, own = next(((name.removesuffix(f".{each}"), each) for each in TENSORS if name.endswith(each)), ("", ""))
        if own:
            tensors.setdefault(module, {})[own] = array
        else:
            saved[name] = array
    expected = {"ia3": TENSORS[3:], "dora": TENSORS[:3]}.get(method, TENSORS[:2])
    if partial := sorted(module for module, own in tensors.items() if {*own} != {*expected}):
        found = ", ".join(tensors[partial[0]])
        raise InputError(f"{folder / peft_files.WEIGHTS} has {found} of {partial[0]}; expected {', '.join(expected)}")
    alphas = {}
    if kind == "LORA":
        # PEFT's defaults, which it writes too, and its way of matching names.
        patterns, alpha = tree.get("alpha_pattern") or {}, float(tree.get("lora_alpha", 8))
        fits = lambda module, pattern: re.match(rf"(.*\.)?({pattern})$", module)
        for module in tensors:
            alphas[module] = next((float(value) for key, value in patterns.items() if fits(module, key)), alpha)
    return Adapter(method=method, tensors=tensors, alphas=alphas, saved=saved)


# The last words of the names of an adapter's tensors.
TENSORS = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector", "ia3_l")


class _Rows(NamedTuple):
    """The tensors of a projection's modules by layer, None for layers that are left alone, and its sizes."""

    places: list[Place]
    tensors: list[Mapping[str, np.ndarray] | None]
    lead: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def load(
    adapter: Adapter, where: Mapping[str, Sequence[tuple[str, Place]]], shapes: Params, axes: Params, folder: Path
) -> peft_files.Loaded:
    """Converts an adapter to parameters of a base; layers that it leaves alone get products of zero, or factors of one.

    Args:
      adapter: as it was read from `folder`.
      where: the `places` of the base's projections.
      shapes: shapes of the base's parameters.
      axes: their logical axes.
      folder: for messages.

    Raises:
      InputError: it has a module that the base lacks, or of another size.
    """
    known = {place.module for rows in where.values() for _, place in rows}
    if unknown := sorted(set(adapter.tensors) - known):
        raise InputError(
            f"{folder} adapts {unknown[0]}, which the base lacks or whose adapters are not supported; its projections "
            f"are {', '.join(sorted(known)[:3])} and {max(len(known) - 3, 0)} more"
        )
    sizes, names = {path: leaf.shape for path, leaf in flatten(shapes).items()}, by_path(axes)
    leaves, ranks = dict[str, np.ndarray](), dict[str, tuple[int, float]]()
    for kernel, each in where.items():
        places = [place for _, place in each]
        found = [adapter.tensors.get(place.module) for place in places]
        if not any(found):
            continue
        module = kernel.removesuffix("/kernel")
        rows = _Rows(places, found, *split_shape(names[kernel], sizes[kernel]))
        if adapter.method == "ia3":
            added, ranks[module] = _loaded_factors(rows, folder), (1, 1.0)
        else:
            added, ranks[module] = _loaded_product(adapter, rows, folder)
        leaves |= {f"{module}/{name}": leaf for name, leaf in added.items()}
    settings: dict[str, Any] = {"method": adapter.method, "targets": tuple(ranks)}
    if adapter.method != "ia3":
        settings["ranks"] = [
            {"target": module, "rank": rank, "alpha": alpha} for module, (rank, alpha) in ranks.items()
        ]
    return peft_files.Loaded(settings, leaves)


def _loaded_product(adapter: Adapter, rows: _Rows, folder: Path) -> tuple[dict[str, np.ndarray], tuple[int, float]]:
    """The `lora` parameters of a projection, and its rank and alpha."""
    size_in, size_out = (int(np.prod(sizes)) for sizes in (rows.inputs, rows.outputs))
    rank = max(tensors["lora_A.weight"].shape[0] for tensors in rows.tensors if tensors)
    down = np.zeros((*rows.lead, size_in, rank), np.float32)
    up, scale = np.zeros((*rows.lead, rank, size_out), np.float32), np.ones(rows.lead, np.float32)
    for layer, (place, tensors) in enumerate(zip(rows.places, rows.tensors, strict=True)):
        if tensors is None:
            continue
        first, second = tensors["lora_A.weight"], tensors["lora_B.weight"]
        if first.shape[1:] != place.inputs.shape or second.shape[:1] != place.outputs.shape:
            sizes = (first.shape[1], second.shape[0]), (len(place.inputs), len(place.outputs))
            raise _other_base(folder, place.module, *sizes)
        ours, own = place.outputs >= 0, len(first)
        down[layer, place.inputs, :own] = first.T
        up[layer, :own, place.outputs[ours]] = second[ours]
        scale[layer] = adapter.alphas[place.module] / (own**0.5 if adapter.method == "rslora" else own)
    added = {
        "lora/down": down.reshape(*rows.lead, *rows.inputs, rank),
        "lora/up": up.reshape(*rows.lead, rank, *rows.outputs),
        "lora/scale": scale,
    }
    if adapter.method == "dora":
        magnitudes = np.zeros((*rows.lead, size_out), np.float32)
        for magnitude, place, tensors in zip(magnitudes, rows.places, rows.tensors, strict=True):
            if tensors is None:
                raise InputError(f"{folder} adapts some layers only, which is not supported for DoRA")
            ours = place.outputs >= 0
            magnitude[place.outputs[ours]] = tensors["lora_magnitude_vector"].reshape(-1)[ours]
        added["lora/magnitude"] = magnitudes.reshape(*rows.lead, *rows.outputs)
    return added, (rank, float(scale[0]) * rank)


def _other_base(folder: Path, module: str, theirs: tuple[int, ...], ours: tuple[int, ...]) -> InputError:
    return InputError(
        f"{folder} has {module} for {' to '.join(map(str, theirs))} features, and the base has "
        f"{' to '.join(map(str, ours))}; give the base that it was trained on"
    )


def _loaded_factors(rows: _Rows, folder: Path) -> dict[str, np.ndarray]:
    """The `ia3` parameters of a projection."""
    inner = next(tensors["ia3_l"].shape[0] == 1 for tensors in rows.tensors if tensors)
    sizes = rows.inputs if inner else rows.outputs
    factors = np.ones((*rows.lead, int(np.prod(sizes))), np.float32)
    for layer, (place, tensors) in enumerate(zip(rows.places, rows.tensors, strict=True)):
        if tensors is not None:
            values, at = tensors["ia3_l"].reshape(-1), place.inputs if inner else place.outputs
            if values.shape != at.shape:
                raise _other_base(folder, place.module, values.shape, at.shape)
            factors[layer, at[at >= 0]] = values[at >= 0]
    return {f"ia3/{'inputs' if inner else 'outputs'}": factors.reshape(*rows.lead, *sizes)}
