"""`config.mesh=auto`: chooses mesh, remat and micro-batches by closed forms, before anything is compiled.

The sizes come from the shapes of the models and of the train state; `plan.estimate` turns them into bytes and
operations, and `plan.ranking` orders the ways to divide a step.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from lm_jax.core import chips
from lm_jax.core.config import InputError
from lm_jax.core.trees import named_leaves
from lm_jax.experiment.config import ExperimentConfig
from lm_jax.experiment.pieces import Experiment
from lm_jax.models.axes import by_path, is_matrix
from lm_jax.models.config import AttentionConfig, EncoderDecoderConfig, ModelConfig, StackConfig
from lm_jax.models.stack import segments
from lm_jax.models.transformer import STACKS
from lm_jax.objectives.base import Work
from lm_jax.parallel import mesh
from lm_jax.parallel.mesh import MeshConfig
from lm_jax.parallel.rings import LANES
from lm_jax.plan import ranking
from lm_jax.plan.estimate import Array, Estimate, Read, Split, Step, splits
from lm_jax.plan.layers import KEPT, Layer
from lm_jax.plan.ranking import Device
from lm_jax.train.checkpoint import broadcast_from_first

# Micro-batches that are tried.
ACCUMULATE = (1, 2, 4, 8, 16)
ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}
# By the placement of norms: a layer's input, and inputs and outputs of norms, which are as wide as the stream.
STREAM = {"pre": 4, "post": 4, "stream": 4, "sandwich": 6, "parallel": 2, "parallel_two": 3}
# Positions that put a bias on the scores, which a fused kernel of TPUs does not serve.
BIASED = ("buckets", "alibi", "transformer_xl", "disentangled")


@dataclasses.dataclass(frozen=True)
class Ranked:
    """The ways to divide a step, the best first.

    Attributes:
      step: its sizes.
      estimates: of every way.
      device: what is known of a device.
      open_stacks: keys of the stacks whose `remat` is chosen, such as `config.model.stack`.
    """

    step: Step
    estimates: list[Estimate]
    device: Device
    open_stacks: tuple[str, ...]

    def why(self, best: Estimate) -> str:
        """Returns a paragraph that says why one of them is best."""
        return ranking.why(best, self.estimates, self.device, self.step.rows)


def chosen(exp: Experiment, device: Device | None = None) -> tuple[Experiment, str]:
    """Returns the experiment with the best mesh, remat and micro-batches for its devices, and a paragraph on why.

    Without `config.mesh=auto` the experiment is returned as it is, with an empty text. `stack.remat` is chosen where it
    is `none`, its default, and `train.accumulate` where it is 1. `device`: what is known of a device; None: ask it.

    Raises:
      InputError: no mesh divides the batch and the parameters.
    """
    if not exp.config.mesh.auto or isinstance(exp.devices, Mesh):
        return exp, ""
    devices = jax.devices() if exp.devices is None else exp.devices
    ranked = rank(exp, devices, device or known(devices))
    best = ranked.estimates[0]
    return divided(exp, devices, best.split, ranked.open_stacks), ranked.why(best)


def rank(
    exp: Experiment,
    devices: Sequence[Any],
    device: Device,
    open_stacks: Sequence[str] | None = None,
    accumulates: Sequence[int] = ACCUMULATE,
) -> Ranked:
    """Returns all ways to divide the step of an experiment over devices, the best first.

    Args:
      exp: an experiment, whose own mesh is not built.
      devices: the devices; their number and their slices count.
      device: what is known of each.
      open_stacks: keys of the stacks whose `remat` is chosen; None: those whose `remat` is `none`.
      accumulates: numbers of micro-batches to try, where the configuration has one micro-batch.

    Raises:
      InputError: no mesh divides the batch and the parameters.
    """
    config, count = exp.config, len(devices)
    single = dataclasses.replace(exp, devices=mesh.make(MeshConfig(), devices[:1]))
    if open_stacks is None:
        open_stacks = [key for key, stack in stacks(config) if stack.remat == "none"]
    step = describe(single, open_stacks, _platform(devices))
    parts = config.train.accumulate
    remats, accumulates = tuple(KEPT) if open_stacks else (None,), tuple(accumulates) if parts == 1 else (parts,)
    if device.limit_bytes is None:
        remats, accumulates = ("none" if open_stacks else None,), (parts,)
    if single.objective.coupled or any(stack.experts.balance for _, stack in stacks(config)):
        accumulates = (parts,)
    slices = len({getattr(each, "slice_index", 0) for each in devices})
    fixed = dataclasses.asdict(config.mesh)
    found = splits(step, count, fixed, remats, accumulates, slices if _platform(devices) == "tpu" else 1)
    if not found:
        raise InputError(_none(single, step, count, fixed))
    return Ranked(step, ranking.rank(step, found, device), device, tuple(open_stacks))


def divided(exp: Experiment, devices: Sequence[Any], split: Split, open_stacks: Sequence[str]) -> Experiment:
    """Returns an experiment whose step is divided over devices as a split says."""
    config = exp.config
    remats = {key: split.remat for key in open_stacks if split.remat is not None}
    models = {role: _with_remat(model, f"config.models.{role}", remats) for role, model in config.models.items()}
    config = dataclasses.replace(
        config,
        model=_with_remat(config.model, "config.model", remats),
        models=type(config.models)(models),
        train=dataclasses.replace(config.train, accumulate=split.accumulate),
    )
    return dataclasses.replace(
        exp,
        config=config,
        devices=mesh.make(MeshConfig(data=split.data, fsdp=split.fsdp, tensor=split.tensor), devices),
    )


def known(devices: Sequence[Any]) -> Device:
    """Returns what is known of each of some jax devices: its memory, and the figures of its chip if it is a TPU.

    All processes of a run get the memory of the first device of process 0.
    """
    device = next((each for each in devices if each.process_index == jax.process_index()), devices[0])
    chip = chips.of_kind(device.device_kind) if device.platform == "tpu" else None
    stats = None if device.platform == "cpu" else device.memory_stats()
    mebibytes = broadcast_from_first(int((stats or {}).get("bytes_limit", 0) / 2**20))
    limit = mebibytes * 2**20 or (chip.usable_bytes if chip else None)
    return Device(limit_bytes=limit, chip=chip)


def describe(exp: Experiment, open_stacks: Sequence[str] = (), platform: str = "tpu") -> Step:
    """Returns the sizes of a step from the shapes of models, state and batch.

    Args:
      exp: an experiment on one device.
      open_stacks: keys of the stacks whose `remat` is open.
      platform: jax's name for that of the devices.
    """
    state, names, models = exp.state_like, by_path(exp.models.axes), exp.models
    every = [*named_leaves(state.params), *named_leaves(state.frozen)]
    stacked = [leaf for path, leaf in every if path.split("/")[1] in STACKS and is_matrix(names.get(path, ()))]
    layers, reads = [], []
    for work in exp.objective.work:
        model, key = models.models[work.role], _key(exp, work.role)
        table = model.shapes.get("decoder_token", model.shapes["token"])["embedding"]
        tied = model.module.config.readout.tied
        reads.append(Read(scored=work.scored, vocabulary=table.shape[0], width=table.shape[1], tied=tied))
        if models.trains_layers(work.role):
            layers += _layers(model.module.config, key, work, open_stacks, platform)
    rest = (exp.batch_like, state.step, state.updates, state.loss_scale, state.averaged, state.carry)
    return Step(
        layers=tuple(layers),
        parameters=_arrays((state.params, state.frozen)),
        optimizer=_arrays(state.opt_state),
        other=_arrays(rest),
        trained=_arrays(state.params),
        stacked=_arrays(stacked),
        reads=tuple(reads),
        rows=exp.config.data.batch,
        itemsize=ITEMSIZE[exp.config.model.dtype],
        flops=exp.flops() * exp.config.data.batch,
    )


def _layers(config: ModelConfig, key: str, work: Work, open_stacks: Sequence[str], platform: str) -> list[Layer]:
    """The layers of a model, by stack and kind."""
    if isinstance(config, EncoderDecoderConfig):
        parts = {"encoder": (config.encoder, work.source, 0), "decoder": (config.decoder, work.length, work.source)}
    else:
        parts = {"stack": (config.stack, work.length + work.targets, 0)}
    result, width = [], config.embed.width
    for name, (stack, tokens, source) in parts.items():
        keys = tokens // work.sequences
        for kind, count in collections.Counter(layer.kind for layer in segments.layers(stack)).items():
            block = stack.kind(kind)
            attention, cross, mlp = block.attention, block.cross, block.feedforward
            head, experts = attention.head_width(width), mlp.experts
            result.append(
                Layer(
                    count=count,
                    width=width,
                    heads=attention.heads,
                    query=attention.heads * head,
                    key=(attention.kv_heads or attention.heads) * head,
                    mlp=(mlp.width or 4 * width) * (experts.top if experts.count else 1),
                    gated=mlp.gated,
                    stream=STREAM[block.norm_placement] + (2 if cross else 0),
                    queries=tokens,
                    keys=keys,
                    source=source if cross else 0,
                    fused=_fused(attention, keys, platform) and not work.targets,
                    cross_fused=cross is not None and _fused(cross, min(keys, source), platform),
                    padded=-(-head // LANES) * LANES / head if platform == "tpu" else 1.0,
                    softcap=attention.softcap is not None,
                    dropped=(block.dropout > 0, mlp.dropout > 0, _drops(attention)),
                    remat=None if f"{key}.{name}" in open_stacks else stack.remat,
                )
            )
    return result


def _fused(attention: AttentionConfig, tokens: int, platform: str) -> bool:
    """Whether the scores stay on the chip, as far as the settings tell (`attention.kernels.choose`)."""
    if attention.kernel in ("splash", "cudnn"):
        return True
    if attention.kernel != "auto" or _drops(attention):
        return False
    if platform == "gpu":
        return attention.position != "alibi" and attention.softcap is None and tokens >= 64
    return platform == "tpu" and attention.position not in BIASED and attention.mask != "prefix" and tokens >= 128


def _drops(attention: AttentionConfig) -> bool:
    return attention.dropout > 0 and attention.dropout_on == "probabilities"


def _arrays(tree: Any) -> tuple[Array, ...]:
    """The shapes of a tree, with the mesh axes of their shardings."""
    result = []
    for leaf in jax.tree.leaves(tree):
        parts = [part if isinstance(part, tuple) else (part,) if part else () for part in leaf.sharding.spec]
        over = (*parts, *[()] * (len(leaf.shape) - len(parts)))
        result.append(Array(leaf.shape, leaf.dtype.itemsize, over))
    return tuple(result)


def stacks(config: ExperimentConfig) -> list[tuple[str, StackConfig]]:
    """Returns the stacks of all models, by their keys, such as `config.model.stack`."""
    models = {"config.model": config.model, **{f"config.models.{role}": each for role, each in config.models.items()}}
    return [
        (f"{key}.{name}", getattr(model, name))
        for key, model in models.items()
        for name in STACKS
        if hasattr(model, name)
    ]


def _key(exp: Experiment, role: str) -> str:
    return f"config.models.{role}" if role in exp.config.models else "config.model"


def _with_remat(model: Any, key: str, remats: dict[str, str]) -> Any:
    fields = {name: f"{key}.{name}" for name in STACKS if f"{key}.{name}" in remats}
    changed = {name: dataclasses.replace(getattr(model, name), remat=remats[path]) for name, path in fields.items()}
    return dataclasses.replace(model, **changed)


def _platform(devices: Sequence[Any]) -> str:
    return devices[0].platform


def _none(exp: Experiment, step: Step, devices: int, fixed: dict[str, int]) -> str:
    """Says why no mesh divides a step, and which batch would."""
    sizes = {name: size for name, size in fixed.items() if name in ("data", "fsdp", "tensor") and size != -1}
    given = f" with {', '.join(f'{name}={size}' for name, size in sizes.items())}" if sizes else ""
    batch, parts = step.rows, exp.config.train.accumulate
    whole = devices * parts // max(sizes.get("tensor", 1), 1)
    low = batch // whole * whole
    use = f"{low} or {low + whole}" if low else f"{whole}"
    return (
        f"config.mesh=auto finds no mesh of {devices} devices{given} that divides the parameters and config.data.batch "
        f"{batch}{f' / {parts} (config.train.accumulate)' if parts > 1 else ''}; use config.data.batch={use}"
    )
