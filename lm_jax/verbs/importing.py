"""`lm-jax import DIR --workdir=W`: converts a Hugging Face checkpoint to a run at step 0, ready for every verb.

`--hf.FIELD=VALUE` overrides a field of its config.json, and `--tokenizer=PATH` takes a tokenizer from elsewhere. A run
without a tokenizer takes token ids. `--role.NAME=DIR` adds the checkpoint of another role of the run's objective:
`lm-jax import DISCRIMINATOR --role.generator=GENERATOR`.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lm_jax import experiment, flags, objectives
from lm_jax.core.config import InputError, Tree
from lm_jax.core.trees import Params, count
from lm_jax.data import atomic, tokenizers
from lm_jax.data.config import DataConfig
from lm_jax.data.conventions import ConventionsConfig
from lm_jax.data.tokenizers import base
from lm_jax.experiment import Experiment, ExperimentConfig
from lm_jax.flags import Request, need_workdir
from lm_jax.interop import generation, safetensors
from lm_jax.interop.huggingface import Checkpoint, open_checkpoint
from lm_jax.interop.tables import kind
from lm_jax.objectives import ObjectiveConfig
from lm_jax.objectives.masked import MaskedConfig
from lm_jax.objectives.roles import product
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.verbs import casting, origins, report, tasks
from lm_jax.verbs import workdir as workdirs
from lm_jax.verbs.casting import Actor
from lm_jax.verbs.runs import PRETRAINING
from lm_jax.verbs.workdir import ORIGIN

# Tokenizer files of a checkpoint, which `export` copies unchanged.
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "*.model"),
)
# Files from which a tokenizer can be loaded, our own format included.
READABLE = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", base.SETTINGS)
LONGEST_ROW = 512  # Tokens; `config.data.length` of an imported run.

RECIPE = '''"""The model of this run, to be trained further.

lm-jax train --config={file} --fork={folder} --workdir=NEW --config.data.path=TEXT
"""

import json
from pathlib import Path

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The configuration beside this file."""
    config = json.loads((Path(__file__).parent / "config.json").read_text())
    config.pop("history", None)
    return ConfigDict(config)
'''


def run(request: Request) -> int:
    """Writes the run: configuration, tokenizer, parameters, and a recipe for further training."""
    workdir = Path(need_workdir(request)).expanduser().resolve()
    if len(request.words) != 1:
        raise InputError(f"import takes one directory, but got {len(request.words)}: lm-jax import DIR --workdir=W")
    if workdir.is_dir() and any(workdir.iterdir()):
        raise InputError(f"--workdir {workdir} is not empty; give a new directory")
    atomic.check_directory(workdir, "--workdir")
    source = Path(request.words[0]).expanduser().resolve()
    checkpoint = open_checkpoint(source, request.fields)
    path = _tokenizer_path(source, request.tokenizer)
    tokenizer, notes = _tokenizer(path, checkpoint)
    conventions, unused = _conventions(source, path, checkpoint, tokenizer)
    actor, others = Actor(source=source, checkpoint=checkpoint, tokenizer_path=path), _others(request, path, tokenizer)
    task = tasks.of_checkpoint(checkpoint) if path is not None and not others else None
    objective, separate = casting.objective(actor, others) if others else (_objective(checkpoint), ())
    objective = objective if task is None else task.objective
    actors = {product(objectives.roles(objective)): actor, **others}
    config = _config(actors, objective, conventions, workdir)
    if task is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, columns=task.columns))
    exp = Experiment(config, tokenizer, saved_labels=Tree() if task is None else task.labels)
    # Builds the models, so that errors occur before the first file is written.
    _ = exp.models
    params = {
        role: casting.owned(exp.models, role, actor.checkpoint.params(exp.layout)) for role, actor in actors.items()
    }
    _write(exp, actors, workdir, params)
    notes = (*checkpoint.notes, *notes, *separate)
    if request.json:
        about = {"workdir": str(workdir), "architecture": checkpoint.architecture, "parameters": count(params)}
        about |= {"roles": {role: other.checkpoint.architecture for role, other in others.items()}}
        report.document({**about, "tokenizer": path and str(path), "notes": notes})
        return 0
    for role, actor in actors.items():
        name = f"{role}: {actor.checkpoint.architecture}" if others else actor.checkpoint.architecture
        report.say(f"{name} from {actor.source}: {count(params[role]):,} parameters, step 0 of {workdir}")
    for note in notes:
        report.say(f"  {note}")
    if unused:
        report.say(f"  generation settings that are ignored: {', '.join(unused)}")
    if extra := checkpoint.extra():
        report.say(f"  tensors that our models do not have, kept for exports: {', '.join(extra)}")
    fill = f" --role={next(iter(others))}" if others else ""
    prompt = "--prompt_ids=1,2,3" if path is None else "--prompt=..."
    use = f"generate --workdir={workdir}{fill} {prompt}"
    report.say(f"  lm-jax {use if task is None else f'evaluate --workdir={workdir} --config.data.path=FILE'}")
    report.say(
        f"  lm-jax train --config={workdir / 'recipe.py'} --fork={workdir} --workdir=NEW --config.data.path=TEXT"
        + (" --config.data.tokenizer.path=PATH" if path is None else "")
    )
    return 0


def _others(request: Request, path: Path | None, tokenizer: tokenizers.Tokenizer) -> dict[str, Actor]:
    """Returns the checkpoints of `--role.NAME=DIR` by role; their tokenizers must give the run's ids."""
    others = {}
    for role, folder in request.roles.items():
        source = Path(folder).expanduser().resolve()
        checkpoint, own = open_checkpoint(source), _tokenizer_path(source, request.tokenizer)
        fingerprint = _tokenizer(own, checkpoint)[0].fingerprint if own and request.tokenizer is None else ""
        if fingerprint and (path is None or fingerprint != tokenizer.fingerprint):
            raise InputError(
                f"{flags.ROLES}{role}={source} has another tokenizer than {request.words[0]}, but all models of a run "
                "read the same ids; give the checkpoints of one run, or their common tokenizer with --tokenizer=PATH"
            )
        others[role] = Actor(source=source, checkpoint=checkpoint, tokenizer_path=own or path)
    return others


def _tokenizer_path(source: Path, name: str | None) -> Path | None:
    """Returns the path of the tokenizer: `name`, or the checkpoint's directory; None without a tokenizer."""
    if name is not None:
        return None if name == tokenizers.IDS else Path(name).expanduser().resolve()
    return source if any(True for pattern in READABLE for _ in source.glob(pattern)) else None


def _tokenizer(path: Path | None, checkpoint: Checkpoint) -> tuple[tokenizers.Tokenizer, tuple[str, ...]]:
    """Returns the tokenizer of the run, and notes for the user."""
    rows, no_tokenizer = checkpoint.config.embed.vocab or 0, f"--tokenizer={tokenizers.IDS}"
    if path is None:
        tokenizer = tokenizers.ids_tokenizer({"rows": rows, "roles": _roles(checkpoint)})
        return tokenizer, ("the run has no tokenizer and takes token ids (--tokenizer=PATH names one)",)
    try:
        cased = not tokenizers.is_ours(path) and tokenizers.cased(path)
        tokenizer = tokenizers.load(path, lowercase=not cased)
    except InputError as error:
        message = str(error).replace("config.data.tokenizer.path", "the tokenizer")
        message = message.replace("; leave it empty to train one", "")
        raise InputError(f"{message}; --tokenizer=PATH names another, {no_tokenizer} imports without one") from error
    if not tokenizer.special[rows:].all():
        raise InputError(
            f"the tokenizer of {path} has {tokenizer.vocab_size:,} ids, but the model's table has {rows:,} rows; "
            f"give the model's tokenizer with --tokenizer=PATH, or import without one: {no_tokenizer}"
        )
    case = "text is not lowercased, because vocab.txt has upper case (do_lower_case in tokenizer_config.json decides)"
    beyond = [f"{tokenizer.piece(token)} ({token})" for token in range(rows, tokenizer.vocab_size)]
    missing = f"the model's table has no row for {', '.join(beyond[:5])}: text with these tokens is refused"
    return tokenizer, (*((case,) if cased else ()), *((missing,) if beyond else ()))


def _roles(checkpoint: Checkpoint) -> dict[str, int]:
    """Returns the special ids of config.json that the model's table has."""
    roles: dict[str, int] = {}
    for role in base.ROLES:
        ids = checkpoint.tree.get(f"{role}_token_id")
        for token in ids if isinstance(ids, list) else [ids]:
            if type(token) is int and 0 <= token < (checkpoint.config.embed.vocab or 0):
                roles.setdefault(role, token)
    return roles


def _conventions(
    source: Path, tokenizer_path: Path | None, checkpoint: Checkpoint, tokenizer: tokenizers.Tokenizer
) -> tuple[ConventionsConfig, list[str]]:
    """Returns the ids that the model expects around texts, and the names of generation settings that are ignored."""
    family, rows = str(checkpoint.tree.get("model_type", "")), checkpoint.config.embed.vocab or 0
    template = tokenizers.Template()
    if tokenizer_path is not None:
        template = tokenizers.template(tokenizer_path, tokenizer, family)
    fields, unused = generation.read(source, checkpoint.tree, checkpoint.family.start_field)
    # The config.json of a small model may keep ids that its smaller table lacks, such as GPT-2's 50256.
    for name, value in fields.items():
        if isinstance(value, tuple):
            fields[name] = tuple(token for token in value if token < rows)
        elif value is not None and value >= rows:
            fields[name] = None
    fields["ends"] = fields["ends"] or ((tokenizer.eos,) if tokenizer.eos >= 0 else ())
    around = {"prefix": template.before, "suffix": template.after, "between": template.between}
    return ConventionsConfig(**around, foreign=True, **fields), unused


def _objective(checkpoint: Checkpoint) -> ObjectiveConfig:
    """Returns the usual pretraining objective of the model's kind."""
    model = checkpoint.config
    paired, ordered = getattr(model, "pair_classes", 0) == 2, kind(checkpoint.tree) == "albert"
    masked = MaskedConfig(next_sentence=paired and not ordered, sentence_order=paired and ordered)
    return ObjectiveConfig(name=PRETRAINING[model.kind], masked=masked)


def _config(
    actors: Mapping[str, Actor], objective: ObjectiveConfig, conventions: ConventionsConfig, workdir: Path
) -> ExperimentConfig:
    """Returns the run's configuration, without a text."""
    models = {role: actor.checkpoint.config for role, actor in actors.items()}
    lengths = [model.embed.max_length for model in models.values() if model.embed.positions == "learned"]
    path = str(workdir / "tokenizer")
    data = DataConfig(tokenizer=tokenizers.TokenizerConfig(path=path), length=min([LONGEST_ROW, *lengths]))
    model = models.pop(product(objectives.roles(objective)))
    return ExperimentConfig(model=model, models=Tree(models), objective=objective, conventions=conventions, data=data)


def _write(exp: Experiment, actors: Mapping[str, Actor], workdir: Path, params: Params) -> None:
    """Writes the run's files; config.json comes last, because it makes the directory a run."""
    for role, actor in actors.items():
        _write_origin(actor, workdir / ORIGIN / ("" if role == exp.models.product else role))
    atomic.write_bytes(workdir / "recipe.py", RECIPE.format(file=workdir / "recipe.py", folder=workdir).encode())
    about = {
        "config": experiment.as_json(exp.config),
        "data_fingerprint": "",
        "tokenizer_fingerprint": exp.tokenizer.fingerprint,
    }
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        checkpointer.save(0, {"params": params}, about)
    workdirs.write(exp, workdir)


def _write_origin(actor: Actor, origin: Path) -> None:
    """Writes the files of a checkpoint that an export needs."""
    origin.mkdir(parents=True, exist_ok=True)
    copied, path = [*actor.source.glob("generation_config.json")], actor.tokenizer_path
    # Our own format is saved with the run; a tokenizer of a single file is written by `export` itself.
    if path is not None and path.is_dir() and not tokenizers.is_ours(path):
        copied += [file for pattern in TOKENIZER for file in path.glob(pattern)]
    for file in copied:
        shutil.copyfile(file, origin / file.name)
    extra = {name: np.asarray(array) for name, array in actor.checkpoint.extra().items()}
    if extra:
        tensor = lambda name, array: safetensors.Tensor(name, array.shape, array.dtype, lambda: array)
        safetensors.write(origin, [tensor(name, array) for name, array in extra.items()])
    about = {"config": actor.checkpoint.tree, "tensors": sorted(actor.checkpoint.entries)}
    atomic.write_json(origin / origins.ABOUT, about)
