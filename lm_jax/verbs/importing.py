"""`lm-jax import DIR --workdir=W`: a Hugging Face checkpoint as a run of ours, at step 0 and ready for every verb."""

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
    checkpoint = open_checkpoint(source)
    tokenizer = _tokenizer(source)
    conventions, unused = _conventions(source, source, checkpoint, tokenizer)
    exp = Experiment(_config(checkpoint.config, conventions, workdir), tokenizer)
    # What is wrong shows before the first file is written.
    _ = exp.model
    params = checkpoint.params(exp.layout)
    _write(exp, checkpoint, source, workdir, params)
    if request.json:
        about = {"workdir": str(workdir), "architecture": checkpoint.architecture, "parameters": count(params)}
        report.document(about)
        return 0
    report.say(f"{checkpoint.architecture} of {source}: {count(params):,} parameters, now step 0 of {workdir}")
    if unused:
        report.say(f"  settings of generation that are not used: {', '.join(unused)}")
    if extra := checkpoint.extra():
        report.say(f"  kept for exports only, as no model of ours has them: {', '.join(extra)}")
    report.say(f"  lm-jax generate --workdir={workdir} --prompt=...")
    report.say(
        f"  lm-jax train --config={workdir / 'recipe.py'} --fork={workdir} --workdir=NEW --config.data.path=TEXT"
    )
    return 0


def _tokenizer(source: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.load(source)
    except InputError as error:
        raise InputError(str(error).replace("config.data.tokenizer.path", "the tokenizer")) from error


def _conventions(
    source: Path, where: Path, checkpoint: Checkpoint, tokenizer: tokenizers.Tokenizer
) -> tuple[ConventionsConfig, list[str]]:
    """What the model expects around its text, and which of its settings are not used.

    Args:
      source: the checkpoint's directory.
      where: the tokenizer's.
      checkpoint: the checkpoint.
      tokenizer: its tokenizer.
    """
    prefix, suffix = tokenizers.template(where, tokenizer, str(checkpoint.tree.get("model_type", "")))
    fields, unused = generation.read(source, checkpoint.tree, checkpoint.family.starts)
    fields["ends"] = fields["ends"] or (tokenizer.eos,)
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


def _write(exp: Experiment, checkpoint: Checkpoint, source: Path, workdir: Path, params: object) -> None:
    """The run's files; config.json, without which no directory is a run, comes last."""
    origin = workdir / ORIGIN
    origin.mkdir(parents=True)
    # Ours are in the run already.
    foreign = () if tokenizers.is_saved(source) else TOKENIZER
    for pattern in ("generation_config.json", *foreign):
        for file in source.glob(pattern):
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
        checkpointer.save(0, {"params": {"model": params}}, about)
    workdirs.write(exp, workdir)
