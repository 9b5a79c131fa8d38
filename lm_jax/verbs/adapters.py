"""Adapter directories of PEFT: written by `lm-jax export --format=peft`, put on a run by `--adapter`."""

from __future__ import annotations

import contextvars
import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.adapt import AdaptConfig
from lm_jax.core.config import InputError, from_config_dict
from lm_jax.core.trees import Params, flatten, merge, unflatten
from lm_jax.experiment import Experiment
from lm_jax.flags import Request
from lm_jax.interop import huggingface, naming, peft, peft_files, peft_prompts
from lm_jax.interop.rules import Rules
from lm_jax.models import prompts
from lm_jax.models.interface import Inputs
from lm_jax.verbs import origins, report, tasks
from lm_jax.verbs.workdir import ORIGIN

LEARNED = ("prompt", "prefix")
METHODS = ("lora", "rslora", "dora", "ia3", *LEARNED)
ADDED = ("/lora/", "/ia3/", "prompt/", "/prefix/")
TOKENS = 64  # Of the row on which outputs are compared.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """The Hugging Face class of a model, and where our projections are in its modules."""

    tree: Mapping[str, Any]
    config: Any
    rules: Rules
    shapes: Params
    axes: Params
    places: Mapping[str, list[tuple[str, peft.Place]]]

    @property
    def architecture(self) -> str:
        """The name of the class."""
        return (self.tree.get("architectures") or [""])[0]

    def named(self, name: str) -> str:
        """The name in the class of a tensor of the table."""
        family = huggingface.family_of(self.tree)
        return naming.their_name(name, family, self.architecture, family.head(self.architecture, self.tree))

    def head(self) -> Rules:
        """The rules of the head of the task."""
        return [rule for rule in self.rules if any(path.startswith("task/") for path in rule.ours)]


def base_of(exp: Experiment, workdir: Path) -> Base:
    """Describes the class that a run's model, without what was added, is exported as."""
    begun = origins.read(workdir / ORIGIN)
    tree, config, _ = tasks.class_of(exp, exp.product.module.config, tasks.suffix_of(exp), begun)
    _, shapes, axes = huggingface.describe(config)
    architecture = (tree.get("architectures") or [""])[0]
    rules = huggingface.family_of(tree).rules(config, architecture, tree)
    base = Base(tree=tree, config=config, rules=rules, shapes=shapes, axes=axes, places={})
    module = lambda place: base.named(f"{place.module}.weight").removesuffix(".weight")
    places = {
        path: [(name, place._replace(module=module(place))) for name, place in rows]
        for path, rows in peft.places(rules, config, shapes, axes).items()
    }
    return dataclasses.replace(base, places=places)


def write(exp: Experiment, params: Params, workdir: Path, output: Path) -> tuple[str, float]:
    """Writes what a run has added to its base, with the head of its task, and reads it back.

    Returns:
      The class of the base, and the largest difference between the run and the base with what was read: of hidden
      states, and of the parameters of the head.

    Raises:
      InputError: the run's method has no counterpart in PEFT.
    """
    method = exp.config.adapt.method
    if method not in METHODS:
        raise InputError(
            f"--format=peft is for runs with config.adapt.method {', '.join(METHODS)}, and this one has {method!r}; "
            "leave out --format"
        )
    base = base_of(exp, workdir)
    leaves = {path: np.asarray(leaf) for path, leaf in flatten(jax.device_get(params)).items()}
    if method in LEARNED:
        peft_prompts.check(base.config, method, any(path.startswith("task/") for path in leaves))
        peft_prompts.write(output, leaves, base.places, base.architecture)
    else:
        tensors = huggingface.to_theirs(base.head(), base.config, base.shapes, unflatten(leaves))
        head = {base.named(name): array for _, name, array in tensors}
        adapter = dataclasses.replace(peft.collect(base.places, leaves, method), saved=head)
        peft.write(output, adapter, base.architecture)
    plain = {path: leaf for path, leaf in flatten(params).items() if not any(name in path for name in ADDED)}
    read = _read(base, output)[1]
    again, config, count = unflatten(plain | read), exp.product.module.config, prompts.count(params)
    length = min(TOKENS, config.embed.max_length - count) if config.embed.positions == "learned" else TOKENS
    tokens = jnp.asarray(np.arange(length, dtype=np.int32)[None] % (config.embed.vocab or 1))
    inputs = Inputs(tokens=tokens, source=Inputs(tokens=tokens) if config.kind == "encoder_decoder" else None)
    with jax.default_matmul_precision("highest"):
        hidden = jax.jit(lambda tree: exp.product.bind(tree)(inputs).hidden)
        differences = [np.abs(read[path] - leaves[path]).max() for path in read if path.startswith("task/")]
        return base.architecture, float(max([jnp.abs(hidden(params) - hidden(again)).max(), *differences]))


def _read(base: Base, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The settings of `config.adapt` for a directory, and its parameters by path, the head's included."""
    if peft_files.read(folder)["peft_type"] in peft_prompts.TYPES:
        loaded = peft_prompts.load(folder, base.config, base.places, base.shapes)
        return loaded.settings, loaded.leaves
    adapter = peft.read(folder)
    loaded = peft.load(adapter, base.places, base.shapes, base.axes, folder)
    head, names = {}, dict(adapter.saved)
    for rule in base.head():
        theirs = [base.named(name) for name in rule.theirs]
        if all(name in names for name in theirs):
            head |= dict(zip(rule.ours, rule.load(*(names.pop(name) for name in theirs)), strict=True))
    if names:
        raise InputError(
            f"{folder} has {min(names)}, which is no part of the base's head; a run of the adapter's task can read it"
        )
    shapes = {path: leaf.shape for path, leaf in flatten(base.shapes).items()}
    for path, leaf in head.items():
        if leaf.shape != shapes[path]:
            raise InputError(
                f"{folder} has a head whose {path} is {list(leaf.shape)}, and that of the run is {list(shapes[path])}: "
                "it was trained for other labels; give a run with its labels"
            )
    return loaded.settings, {**loaded.leaves, **{path: np.asarray(leaf, np.float32) for path, leaf in head.items()}}


def digest(folder: Path) -> str:
    """A hash of the files of a directory."""
    files = [(folder / name).read_bytes() for name in (peft_files.CONFIG, peft_files.WEIGHTS)]
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in files)).hexdigest()


def opened(exp: Experiment, workdir: Path, folder: Path) -> Experiment:
    """The experiment of a run with the adapter of a directory.

    Raises:
      InputError: the run has an adapter of its own, or the directory's is for another base.
    """
    if exp.config.adapt.method != "full":
        raise InputError(
            f"--adapter={folder} is for a plain model, but {workdir} was tuned by {exp.config.adapt.method!r}; give "
            "the run that it started from"
        )
    settings, _ = _read(base_of(exp, workdir), folder)
    adapt = from_config_dict(AdaptConfig, settings, "config.adapt")
    # What the run itself trained no longer matters.
    train = dataclasses.replace(exp.config.train, only=())
    return dataclasses.replace(exp, config=dataclasses.replace(exp.config, adapt=adapt, train=train))


# The parameters of the run while one command puts several adapters on it; None otherwise.
_BASES: contextvars.ContextVar[dict[Any, Params] | None] = contextvars.ContextVar("bases", default=None)


def run_each(verb: Callable[[Request], int | None], request: Request) -> int:
    """Runs a verb for each adapter of `--adapter=A,B`; the run that they are put on is restored once.

    `{adapter}` in `--output` stands for the name of the directory.

    Raises:
      InputError: adapters would write the same file.
    """
    folders = [folder for folder in str(request.adapter).split(",") if folder]
    names = [Path(folder).name for folder in folders]
    if request.output and ("{adapter}" not in request.output or len({*names}) < len(names)):
        raise InputError(
            f"--output={request.output} would be one file for {len(folders)} adapters; write {{adapter}} into it, "
            "which stands for the name of an adapter's directory, and give directories with different names"
        )
    token, code = _BASES.set({}), 0
    try:
        for folder, name in zip(folders, names, strict=True):
            if not request.json:
                report.say(f"adapter    {folder}")
            output = request.output and request.output.replace("{adapter}", name)
            code = max(code, verb(dataclasses.replace(request, adapter=folder, output=output)) or 0)
    finally:
        _BASES.reset(token)
    return code


def base(key: Any, restore: Callable[[], Params]) -> Params:
    """The parameters by role that `restore` gives, which a command with several adapters restores once."""
    bases = _BASES.get()
    if bases is None:
        return restore()
    if key not in bases:
        bases[key] = restore()
    return bases[key]


def plain(exp: Experiment) -> Experiment:
    """The experiment without what `config.adapt` adds."""
    return dataclasses.replace(exp, config=dataclasses.replace(exp.config, adapt=AdaptConfig()))


def extended(exp: Experiment, params: Params, workdir: Path, folder: Path) -> Params:
    """The parameters by role of a plain run with those of an adapter."""
    _, leaves = _read(base_of(plain(exp), workdir), folder)
    product = exp.models.product
    own = {path: leaf for path, leaf in flatten(params[product]).items() if path not in leaves}
    like = flatten(exp.params_like(product)[product])
    put = {path: jax.device_put(leaf, like[path].sharding) for path, leaf in leaves.items()}
    return {**params, product: merge(unflatten(own), unflatten(put))}
