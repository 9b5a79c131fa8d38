"""`lm-jax import DIR --workdir=W`: a Hugging Face checkpoint as a run of ours, at step 0 and ready for every verb.

`--hf.FIELD=VALUE` lays a field over its config.json, and `--tokenizer=PATH` names a tokenizer that lies elsewhere; a
checkpoint without one is a run that takes ids.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from lm_jax import experiment
from lm_jax.core.config import InputError
from lm_jax.core.trees import count
from lm_jax.data import atomic, tokenizers
from lm_jax.data.config import DataConfig
from lm_jax.data.conventions import ConventionsConfig
from lm_jax.data.tokenizers import base
from lm_jax.experiment import Experiment, ExperimentConfig
from lm_jax.flags import Request, need_workdir
from lm_jax.interop import generation, safetensors
from lm_jax.interop.huggingface import Checkpoint, open_checkpoint
from lm_jax.models.config import ModelConfig
from lm_jax.objectives import ObjectiveConfig
from lm_jax.objectives.masked import MaskedConfig
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.verbs import report
from lm_jax.verbs import workdir as workdirs
from lm_jax.verbs.workdir import ORIGIN

ABOUT = "about.json"
# Files of a tokenizer beside a checkpoint, which an export gives back as they came.
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "*.model"),
)
# Files that a tokenizer can be read from, ours among them.
READABLE = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", base.SETTINGS)
LONGEST_ROW = 512

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
    """Writes the run: configuration, tokenizer, parameters, and a recipe that trains them further."""
    workdir = Path(need_workdir(request)).expanduser().resolve()
    if len(request.words) != 1:
        raise InputError(f"import takes one directory, and got {len(request.words)}: lm-jax import DIR --workdir=W")
    if workdir.is_dir() and any(workdir.iterdir()):
        raise InputError(f"--workdir {workdir} is not empty; give a new directory")
    atomic.check_directory(workdir, "--workdir")
    source = Path(request.words[0]).expanduser().resolve()
    checkpoint = open_checkpoint(source, request.fields)
    where = _where(source, request.tokenizer)
    tokenizer, notes = _tokenizer(where, checkpoint)
    conventions, unused = _conventions(source, where, checkpoint, tokenizer)
    exp = Experiment(_config(checkpoint.config, conventions, workdir), tokenizer)
    # What is wrong shows before the first file is written.
    _ = exp.product
    params = checkpoint.params(exp.layout)
    _write(exp, checkpoint, source, where, workdir, params)
    if request.json:
        about = {"workdir": str(workdir), "architecture": checkpoint.architecture, "parameters": count(params)}
        report.document({**about, "tokenizer": where and str(where), "notes": [*checkpoint.notes, *notes]})
        return 0
    report.say(f"{checkpoint.architecture} of {source}: {count(params):,} parameters, now step 0 of {workdir}")
    for note in (*checkpoint.notes, *notes):
        report.say(f"  {note}")
    if unused:
        report.say(f"  settings of generation that are not used: {', '.join(unused)}")
    if extra := checkpoint.extra():
        report.say(f"  kept for exports only, as no model of ours has them: {', '.join(extra)}")
    report.say(f"  lm-jax generate --workdir={workdir} " + ("--prompt_ids=1,2,3" if where is None else "--prompt=..."))
    report.say(
        f"  lm-jax train --config={workdir / 'recipe.py'} --fork={workdir} --workdir=NEW --config.data.path=TEXT"
        + (" --config.data.tokenizer.path=PATH" if where is None else "")
    )
    return 0


def _where(source: Path, named: str | None) -> Path | None:
    """Where the tokenizer is: as named, or beside the checkpoint; None where there is none."""
    if named is not None:
        return None if named == tokenizers.IDS else Path(named).expanduser().resolve()
    return source if any(True for pattern in READABLE for _ in source.glob(pattern)) else None


def _tokenizer(where: Path | None, checkpoint: Checkpoint) -> tuple[tokenizers.Tokenizer, tuple[str, ...]]:
    """The tokenizer of the run, and what is to be said of it."""
    rows, without = checkpoint.config.embed.vocab or 0, f"--tokenizer={tokenizers.IDS}"
    if where is None:
        tokenizer = tokenizers.ids_tokenizer({"rows": rows, "roles": _roles(checkpoint)})
        return tokenizer, ("it takes ids, for it has no tokenizer (--tokenizer=PATH names one)",)
    try:
        cased = not tokenizers.is_ours(where) and tokenizers.cased(where)
        tokenizer = tokenizers.load(where, lowercase=not cased)
    except InputError as error:
        said = str(error).replace("config.data.tokenizer.path", "the tokenizer")
        said = said.replace("; leave it empty to train one", "")
        raise InputError(f"{said}; --tokenizer=PATH names another, {without} does without") from error
    if not tokenizer.special[rows:].all():
        raise InputError(
            f"the tokenizer of {where} has {tokenizer.vocab_size:,} ids, and the model's table {rows:,} rows; name the "
            f"model's own with --tokenizer=PATH, or do without with {without}"
        )
    kept = "text keeps its case, for vocab.txt has upper case (do_lower_case in a tokenizer_config.json says otherwise)"
    beyond = [f"{tokenizer.piece(token)} ({token})" for token in range(rows, tokenizer.vocab_size)]
    missing = f"the model's table has no row for {', '.join(beyond[:5])}: text that needs one is refused"
    return tokenizer, (*((kept,) if cased else ()), *((missing,) if beyond else ()))


def _roles(checkpoint: Checkpoint) -> dict[str, int]:
    """Special ids that config.json names and the table has."""
    found: dict[str, int] = {}
    for role in base.ROLES:
        named = checkpoint.tree.get(f"{role}_token_id")
        for token in named if isinstance(named, list) else [named]:
            if type(token) is int and 0 <= token < (checkpoint.config.embed.vocab or 0):
                found.setdefault(role, token)
    return found


def _conventions(
    source: Path, where: Path | None, checkpoint: Checkpoint, tokenizer: tokenizers.Tokenizer
) -> tuple[ConventionsConfig, list[str]]:
    """What the model expects around its text (`where` None: bare ids), and which of its settings are not used."""
    family, rows = str(checkpoint.tree.get("model_type", "")), checkpoint.config.embed.vocab or 0
    prefix, suffix = ((), ()) if where is None else tokenizers.template(where, tokenizer, family)
    fields, unused = generation.read(source, checkpoint.tree, checkpoint.family.starts)
    # Files keep ids of the family's own vocabulary, such as GPT-2's 50256, beside a table of a few rows.
    for name, value in fields.items():
        if isinstance(value, tuple):
            fields[name] = tuple(one for one in value if one < rows)
        elif value is not None and value >= rows:
            fields[name] = None
    fields["ends"] = fields["ends"] or ((tokenizer.eos,) if tokenizer.eos >= 0 else ())
    return ConventionsConfig(prefix=prefix, suffix=suffix, foreign=True, **fields), unused


def _config(model: ModelConfig, conventions: ConventionsConfig, workdir: Path) -> ExperimentConfig:
    """The run's configuration: what such a model is pretrained with, on a text that is to be named."""
    objective = {
        "decoder": ObjectiveConfig(name="causal"),
        "encoder": ObjectiveConfig(
            name="masked", masked=MaskedConfig(next_sentence=getattr(model, "pair_classes", 0) == 2)
        ),
        "encoder_decoder": ObjectiveConfig(name="span"),
    }[model.kind]
    learned = model.embed.positions == "learned"
    data = DataConfig(
        tokenizer=tokenizers.TokenizerConfig(path=str(workdir / "tokenizer")),
        length=min(LONGEST_ROW, model.embed.max_length) if learned else LONGEST_ROW,
    )
    return ExperimentConfig(model=model, objective=objective, conventions=conventions, data=data)


def _write(
    exp: Experiment, checkpoint: Checkpoint, source: Path, where: Path | None, workdir: Path, params: object
) -> None:
    """The run's files; config.json, without which no directory is a run, comes last."""
    origin = workdir / ORIGIN
    origin.mkdir(parents=True)
    copied = [*source.glob("generation_config.json")]
    # Ours are in the run already, and a file alone is written anew.
    if where is not None and where.is_dir() and not tokenizers.is_ours(where):
        copied += [file for pattern in TOKENIZER for file in where.glob(pattern)]
    for file in copied:
        shutil.copyfile(file, origin / file.name)
    extra = {name: np.asarray(array) for name, array in checkpoint.extra().items()}
    if extra:
        tensors = [
            safetensors.Tensor(name, array.shape, array.dtype, lambda array=array: array)
            for name, array in extra.items()
        ]
        safetensors.write(origin, tensors)
    atomic.write_json(origin / ABOUT, {"config": checkpoint.tree, "tensors": sorted(checkpoint.entries)})
    atomic.write_bytes(workdir / "recipe.py", RECIPE.format(file=workdir / "recipe.py", folder=workdir).encode())
    about = {
        "config": experiment.as_json(exp.config),
        "data_fingerprint": "",
        "tokenizer_fingerprint": exp.tokenizer.fingerprint,
    }
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        checkpointer.save(0, {"params": {exp.models.product: params}}, about)
    workdirs.write(exp, workdir)
