"""Command-line flags, recipes, and the `--config.KEY=VALUE` overrides of a recipe.

absl parses the flags; its errors become an `InputError`, which is printed in one line, without a traceback.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import importlib.metadata
import importlib.util
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax.core import values as value_types
from lm_jax.core.config import InputError, check_local, differences, nearest, to_config_dict

MODEL_VERBS = ("evaluate", "predict", "features", "generate", "inspect")
WRITING_VERBS = ("predict", "generate")
CHECKPOINT_VERBS = ("import", "export", "verify")
PRINTING_VERBS = ("train", *MODEL_VERBS, "tokenizer", "data", "plan", "list", "doctor", *CHECKPOINT_VERBS)
RUN_VERBS = ("train", *MODEL_VERBS, "import", "export")
STEP_VERBS = ("evaluate", "predict", "features", "generate", "export")
ROLE_VERBS, FORK_VERBS = ("features", "generate", "export"), ("train", "data", "inspect", "plan")
LATEST = -1  # Value of a bare `--checkpoint`.
PATHS = ("workdir", "adapter", "input", "output", "fork", "model", "tokenizer", "against", "dump")
# Families of flags, each a prefix and a name that the user chooses: `--hf.FIELD=VALUE` and `--role.NAME=DIR`.
FIELDS, ROLES, NAMED_VERBS = "--hf.", "--role.", ("import",)
NAMED = {
    f"{FIELDS}FIELD=...": "set a field of config.json to JSON or text; an empty value removes it",
    f"{ROLES}NAME=...": "directory of the checkpoint of another role, such as --role.generator=DIR for ELECTRA",
}
WORD_VERBS = ("inspect", "completion", "import")  # Verbs with positional arguments.


def _flag(default: Any, about: str, *verbs: str) -> Any:
    """Declares a flag: its default (None: not given), its help text and the verbs that read it (empty: all verbs)."""
    return dataclasses.field(default=default, metadata={"flag": (default, verbs, about)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A parsed command line: a verb with its flags and positional arguments.

    Attributes:
      recipe: value of `--config`, or None.
      config: the recipe with its defaults filled in and the overrides applied; None without `--config`.
      changed: a line `key: recipe's value -> new value` for each overridden key.
      overrides: the `--config.KEY=VALUE` arguments, for verbs that read their configuration from a work directory.
      words: positional arguments.
      fields: values of `--hf.FIELD=VALUE` by field of the checkpoint's config.json; an empty value removes the field.
      roles: directories of `--role.NAME=DIR` by role.
    """

    verb: str
    recipe: str | None = None
    config: Any = None
    changed: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    roles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    workdir: str | None = _flag(None, "directory of the run; train and import write it, others read it", *RUN_VERBS)
    checkpoint: int | None = _flag(
        None, "step to load [the best, else the newest intact]; bare --checkpoint: the newest intact", *STEP_VERBS
    )
    role: str | None = _flag(None, "model to generate from or to export, by its role [the product]", *ROLE_VERBS)
    adapter: str | None = _flag(
        None, "directory of a PEFT adapter to put on the run's model; A,B: one after another", *STEP_VERBS[:-1]
    )
    input: str | None = _flag(None, "file of prompts, one per line, or of rows", "features", *WRITING_VERBS)
    output: str | None = _flag(
        None, "file for the result; tokenizer, export, plan: directory", "tokenizer", *MODEL_VERBS, "export", "plan"
    )
    prompt: tuple[str, ...] = _flag((), "prompt; can be repeated", "generate")
    prompt_ids: tuple[str, ...] = _flag((), "prompt as token ids, such as 1,2,3; can be repeated", "generate")
    tokenizer: str | None = _flag(None, "tokenizer directory or file; ids: no tokenizer [the checkpoint's]", "import")
    max_tokens: int | None = _flag(None, "most new tokens [128 or fewer; predict: a target's]", *WRITING_VERBS)
    temperature: float | None = _flag(None, "sampling temperature; 0 is greedy [1; predict: 0]", *WRITING_VERBS)
    top_k: int = _flag(0, "sample from the k most likely (0: all); encoder: candidates per mask [5]", *WRITING_VERBS)
    top_p: float = _flag(1.0, "sample from the fewest most likely tokens with this total probability", *WRITING_VERBS)
    seed: int | None = _flag(None, "seed of sampling [0]; train: the same as --config.seed", "train", *WRITING_VERBS)
    layer: int | None = _flag(None, "layer of the vectors: 0 embeddings, -1 the last [the last]", "features")
    pool: str = _flag("mean", "a vector per row: mean, first or last; none: one per token", "features")
    column: tuple[str, ...] = _flag((), "column to read; twice: a pair [those that the run reads]", "features")
    normalise: bool = _flag(False, "divide each vector by its norm", "features")
    dtype: str = _flag("float32", "type of the vectors: float32 or float16", "features")
    batch: int | None = _flag(None, "show the training batch of this step, counted from 0", "inspect")
    rows: int | None = _flag(None, "rows of --batch to show [4; with --json all]", "inspect")
    json: bool = _flag(False, "print one JSON document and nothing else to standard output", *PRINTING_VERBS)
    fork: str | None = _flag(
        None, "run to start from: its parameters and, if the recipe sets none, its model", *FORK_VERBS
    )
    format: str = _flag("huggingface", "huggingface; bare: without the head of a task; peft: what was added", "export")
    case: tuple[str, ...] = _flag((), "directory with inputs, outputs and a checkpoint; can be repeated", "verify")
    model: str | None = _flag(None, "directory of the checkpoint [the directory of --case]", "verify")
    topology: str | None = _flag(None, "devices to plan for, such as v5e:16x16, v5p:4x4x4 or h100:8", "plan")
    slices: int = _flag(1, "slices of that topology, which the data axis of the mesh spans", "plan")
    against: str | None = _flag(None, "plan.json, or its directory, to print the differences from", "plan")
    search: bool = _flag(False, "compile the three best meshes, by estimate, and compare them", "plan")
    dump: str | None = _flag(None, "directory for the compiled text and the coordinates of the devices", "plan")
    distributed: bool = _flag(False, "join the multi-host run that the environment describes (TPU pods)")
    coordinator: str | None = _flag(None, "address of process 0 of a multi-host run, host:port")
    processes: int | None = _flag(None, "number of processes of a multi-host run")
    process: int | None = _flag(None, "index of this process, from 0")


# absl's name of each type.
_KINDS = {"str": "string", "int": "integer", "float": "float", "bool": "boolean", "tuple[str, ...]": "multi_string"}
# Name, absl's type, default, verbs that read it (empty: all), help text.
FLAGS: tuple[tuple[str, str, Any, tuple[str, ...], str], ...] = tuple(
    (field.name, _KINDS[str(field.type).removesuffix(" | None")], *field.metadata["flag"])
    for field in dataclasses.fields(Request)
    if field.metadata
)


def reads(verb: str, verbs: tuple[str, ...]) -> bool:
    """Returns whether a verb reads a flag, given the verbs that `FLAGS` lists for the flag."""
    return not verbs or verb in verbs


def describe(verb: str | None = None) -> str:
    """Returns the help text, one flag per line: all flags, or those that `verb` reads."""
    lines = ["flags:"]
    for name, kind, default, verbs, about in FLAGS:
        if verb is not None and not reads(verb, verbs):
            continue
        usage = f"--{name}" if kind == "boolean" else f"--{name}[=...]" if name == "checkpoint" else f"--{name}=..."
        only = f" ({', '.join(verbs)})" if verbs and verb is None and verbs != PRINTING_VERBS else ""
        value = f" [{default}]" if default not in (None, (), False) else ""
        lines.append(f"  {usage:18} {about}{value}{only}")
    if verb is None or verb in NAMED_VERBS:
        only = "" if verb else f" ({', '.join(NAMED_VERBS)})"
        lines += [f"  {usage:18} {about}{only}" for usage, about in NAMED.items()]
    return "\n".join(lines)


def parse(verb: str, words: Sequence[str]) -> Request:
    """Parses the arguments after the verb; raises `InputError` for an unknown flag or key, or a wrong type of value."""
    recipe, rest = _take_recipe(list(words))
    overrides = tuple(word for word in rest if word.startswith("--config."))
    rest = [word for word in rest if not word.startswith("--config.")]
    fields, rest = _take_named(verb, FIELDS, "FIELD=VALUE (empty to remove the field)", rest)
    roles, rest = _take_named(verb, ROLES, "NAME=DIR", rest)
    for name, folder in roles.items():
        check_local(folder, f"{ROLES}{name}")
    values, positional = _parse_absl(verb, rest)
    if positional and verb not in WORD_VERBS:
        raise InputError(f"{positional[0]!r} is not a flag, and {verb} takes only flags; flags start with --")
    if verb == "train" and values["seed"] is not None:
        overrides = (*overrides, f"--config.seed={values['seed']}")
    config, changed = None, ()
    if recipe is not None:
        config, changed = configure(load_recipe(recipe), overrides, values["fork"], values["workdir"])
    elif overrides and values["workdir"] is None:
        raise InputError(f"{overrides[0]} needs --config=RECIPE (lm-jax list shows the shipped recipes)")
    values |= {name: tuple(values[name]) for name in ("prompt", "prompt_ids", "case", "column")}
    values |= {"words": tuple(positional), "fields": fields, "roles": roles}
    return Request(verb=verb, recipe=recipe, config=config, changed=changed, overrides=overrides, **values)


def load_recipe(name: str) -> Any:
    """Runs a recipe and returns its ConfigDict.

    Args:
      name: `FILE[:VARIANT]`, or `NAME[:VARIANT]` of a shipped recipe.

    Raises:
      InputError: there is no such file or variant, or running it failed.

    Example:
      >>> load_recipe("gpt:tiny").model.kind
      'decoder'
    """
    path, _, variant = name.partition(":")
    file = find_recipe(path)
    spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise InputError(f"--config={name}: {file} is not a Python file; expected a name ending in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise InputError("the file defines no function get_config(variant)")
        variants = getattr(module, "VARIANTS", ())
        if variant in getattr(module, "MOVED", {}):
            print(f"lm-jax: --config={name} is now --config={module.MOVED[variant]}", file=sys.stderr)
            return load_recipe(module.MOVED[variant])
        if variant and variants and variant not in variants:
            raise InputError(f"unknown variant {variant!r}; expected one of {', '.join(variants)}")
        return module.get_config(variant) if variant else module.get_config()
    except Exception as error:
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        raise InputError(f"--config={name}: {kind}{error}") from error


def recipe_folder() -> Path:
    """Returns the directory of the shipped recipes: that of the clone, or where the wheel installed them."""
    clone = Path(__file__).resolve().parent.parent / "configs"
    if clone.is_dir():
        return clone
    try:
        files = importlib.metadata.files("lm_jax") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    folders = [Path(str(file.locate())).resolve().parent for file in files if file.match("share/lm_jax/configs/*.py")]
    return folders[0] if folders else Path(sysconfig.get_path("data")) / "share" / "lm_jax" / "configs"


def about_recipe(file: Path) -> tuple[str, tuple[str, ...]]:
    """Returns the first line of a recipe's docstring and its variants, without running the file."""
    tree = ast.parse(file.read_text())
    about = (ast.get_docstring(tree) or "").partition("\n")[0]
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "VARIANTS":
            names = node.value.keys if isinstance(node.value, ast.Dict) else getattr(node.value, "elts", ())
            return about, tuple(ast.literal_eval(name) for name in names if name)
    return about, ()


def find_recipe(name: str) -> Path:
    """Returns the file of a recipe, given as a path or as the name of a shipped recipe."""
    if Path(name).is_file():
        return Path(name)
    shipped = recipe_folder() / (Path(name).name if name.endswith(".py") else f"{name}.py")
    if shipped.is_file() and Path(name).parent.name in ("", "configs"):
        return shipped
    names = sorted(file.stem for file in recipe_folder().glob("*.py"))
    raise InputError(
        f"--config={name} is neither a file nor a shipped recipe{nearest(name, names)}; "
        f"shipped recipes: {', '.join(names)}"
    )


def configure(
    recipe: Any, overrides: Sequence[str], fork: str | None = None, workdir: str | None = None
) -> tuple[Any, tuple[str, ...]]:
    """Returns a recipe's ConfigDict with defaults and overrides, and a line `key: before -> after` per changed key.

    A recipe without a model gets that of the run `fork`, or of the run to resume in `workdir`.

    Example:
      >>> config, changed = configure(load_recipe("gpt:tiny"), ["--config.train.steps=10"])
      >>> config.train.steps, changed
      (10, ('config.train.steps: 200 -> 10',))
    """
    from lm_jax import experiment

    before = experiment.complete(experiment.adopt(recipe, fork, workdir))
    after = override(copy.deepcopy(before), overrides)
    return after, tuple(differences(before, after))


def override(config: Any, overrides: Sequence[str]) -> Any:
    """Applies `--config.KEY=VALUE` arguments to `config`, in place; a value is parsed as the type of its key."""
    from lm_jax.experiment.config import ENTRIES, WORDS, replaced

    pair = lambda word: tuple(word[len("--") :].split("=", 1))
    # Words for whole trees first, so that other arguments override single keys of them in any order.
    words = sorted((*replaced(overrides), *overrides), key=lambda word: pair(word) not in WORDS)
    for word in words:
        key, equals, text = word[len("--") :].partition("=")
        if not equals:
            raise InputError(f"{word} has no value; write {word}=VALUE")
        tree, path, names, entry = config, "config", key.split(".")[1:], None
        for depth, name in enumerate(names):
            last = depth == len(names) - 1
            # The user chooses the keys of these trees, such as the names of a mixture's sources.
            if name not in tree and not last and path in ENTRIES:
                tree[name] = to_config_dict(ENTRIES[path]())
            if name not in tree:
                near = nearest(name, tree.keys()) or f"; {path} has the keys {', '.join(tree.keys())}"
                raise InputError(f"unknown key {key}{near}")
            if last and (key, text) in WORDS:
                tree[name].update(WORDS[key, text])
                continue
            if last and hasattr(tree[name], "keys"):
                known = "".join(f", or write --{key}={value}" for tree_key, value in WORDS if tree_key == key)
                raise InputError(f"{word}: {key} is a tree; set one of its keys {', '.join(tree[name].keys())}{known}")
            if not last and not hasattr(tree[name], "keys"):
                raise InputError(f"unknown key {key}: {path}.{name} is a value, not a tree")
            if last:
                tree[name] = value_types.parse(tree, name, text, key, entry)
            else:
                entry = ENTRIES.get(path)
                tree, path = tree[name], f"{path}.{name}"
    return config


def _take_recipe(words: list[str]) -> tuple[str | None, list[str]]:
    """Takes `--config=RECIPE` or `--config RECIPE` out of the arguments, and joins `--config.KEY VALUE` with `=`."""
    rest, recipe, index = [], None, 0
    while index < len(words):
        word = words[index]
        if word == "--config" and _is_value(words, index + 1):
            recipe, index = words[index + 1], index + 1
        elif word.startswith("--config="):
            recipe = word.partition("=")[2]
        elif word.startswith(("--config.", FIELDS, ROLES)) and "=" not in word and _is_value(words, index + 1):
            rest.append(f"{word}={words[index + 1]}")
            index += 1
        else:
            rest.append(word)
        index += 1
    if recipe == "":
        raise InputError("--config= is empty; give a recipe, such as --config=gpt:tiny")
    return recipe, rest


def _take_named(verb: str, prefix: str, usage: str, words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Takes the arguments `PREFIX NAME=VALUE` out of the others; `usage` is what follows the prefix, for messages."""
    matches = [word for word in words if word.startswith(prefix)]
    if matches and verb not in NAMED_VERBS:
        raise InputError(f"{verb} does not read {matches[0]}, which is a flag of {', '.join(NAMED_VERBS)}")
    values = {}
    for word in matches:
        name, equals, text = word.removeprefix(prefix).partition("=")
        if not name or not equals:
            before, _, after = usage.partition("=")
            raise InputError(f"{word} sets nothing; write {prefix}{name or before}={after}")
        values[name] = text
    return values, [word for word in words if not word.startswith(prefix)]


def _is_value(words: list[str], index: int) -> bool:
    return index < len(words) and not words[index].startswith("--")


def _parse_absl(verb: str, words: list[str]) -> tuple[dict[str, Any], list[str]]:
    from absl import flags as absl_flags

    # absl has no optional values, so a bare `--checkpoint` gets one.
    words = [
        f"--checkpoint={LATEST}" if word == "--checkpoint" and not _is_value(words, index + 1) else word
        for index, word in enumerate(words)
    ]
    values = absl_flags.FlagValues()
    for name, kind, default, _, about in FLAGS:
        getattr(absl_flags, f"DEFINE_{kind}")(name, default, about, flag_values=values)
    try:
        positional = values(["lm-jax", *words])[1:]
    except absl_flags.UnrecognizedFlagError as error:
        names = [name for name, *_ in FLAGS]
        raise InputError(
            f"unknown flag --{error.flagname}{nearest(error.flagname, names) or '; lm-jax --help lists the flags'}"
        ) from error
    except absl_flags.Error as error:
        raise InputError(str(error)) from error
    if "workdir" in values and values.workdir == "":
        raise InputError("--workdir= is empty; give a directory")
    for name in PATHS:
        check_local(values[name].value, f"--{name}")
    for word in positional:
        check_local(word, verb)
    for name, _, _, verbs, _ in FLAGS:
        if values[name].present and not reads(verb, verbs):
            raise InputError(f"{verb} does not read --{name}, which is a flag of {', '.join(verbs)}")
    return {name: values[name].value for name, *_ in FLAGS}, positional


def need_config(request: Request) -> Any:
    """Returns the typed configuration of a request; raises `InputError` without `--config`."""
    from lm_jax import experiment

    if request.config is None:
        raise InputError(
            f"{request.verb} needs --config=RECIPE[:VARIANT], such as --config=gpt:tiny; lm-jax list shows all recipes"
        )
    return experiment.parse(request.config)


def need_workdir(request: Request) -> str:
    """Returns `--workdir`; raises `InputError` without it."""
    if request.workdir is None:
        raise InputError(f"{request.verb} needs --workdir=DIR")
    return request.workdir
