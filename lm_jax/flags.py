"""The command line: the same flags for every verb, and `--config.any.key=value` over a recipe.

absl parses; its own `--help` and error handling would end the program with a traceback, so a parser of our own
collects what went wrong into one line.
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

from lm_jax.core.config import InputError, check_local, nearest

MODEL_VERBS = ("evaluate", "generate", "inspect")
CHECKPOINT_VERBS = ("import", "export", "verify")
PRINTING_VERBS = ("train", "evaluate", "generate", "tokenizer", "data", "inspect", "list", "doctor", *CHECKPOINT_VERBS)
RUN_VERBS, STEP_VERBS = ("train", *MODEL_VERBS, "import", "export"), ("evaluate", "generate", "export")
LATEST = -1  # `--checkpoint` without a step.

PATHS = ("workdir", "input", "output", "fork", "model", "tokenizer")
# Fields of a checkpoint's config.json: `--hf.FIELD=VALUE`.
FIELDS, FIELD_VERBS = "--hf.", ("import",)
# Verbs that take words which are no flags.
WORD_VERBS = ("inspect", "completion", "import")


def _flag(default: Any, about: str, *verbs: str) -> Any:
    """A flag: its default (None: not given), what it is, and the verbs that read it (none: all)."""
    return dataclasses.field(default=default, metadata={"flag": (default, verbs, about)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A verb with its flags.

    Attributes:
      verb: what to do.
      recipe: the `--config` flag as given, or None.
      config: the recipe, completed and overridden; None without `--config`.
      changed: lines `key: recipe -> command line` of what was overridden.
      overrides: the `--config.key=value` words, for verbs whose configuration comes from a work directory.
      words: what is left: words that are not flags.
      fields: of a checkpoint's config.json, set by `--hf.FIELD=VALUE`; an empty text leaves one out.
    """

    verb: str
    recipe: str | None = None
    config: Any = None
    changed: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    workdir: str | None = _flag(
        None, "directory of the run: written by train and import, read by the others", *RUN_VERBS
    )
    checkpoint: int | None = _flag(
        None,
        "step to use; without a step the newest intact one; not given: the best, or the newest intact one",
        *STEP_VERBS,
    )
    input: str | None = _flag(None, "file of prompts, one a line", "generate")
    output: str | None = _flag(None, "where to write the result", "tokenizer", *MODEL_VERBS, "export")
    prompt: tuple[str, ...] = _flag((), "a prompt; may be given several times", "generate")
    prompt_ids: tuple[str, ...] = _flag((), "a prompt as token ids, 1,2,3; may be given several times", "generate")
    tokenizer: str | None = _flag(None, "tokenizer of the checkpoint: a directory or a file", "import")
    max_tokens: int | None = _flag(
        None, "most tokens to generate; default: 128, or what the positions leave room for", "generate"
    )
    temperature: float = _flag(1.0, "0 is greedy", "generate")
    top_k: int = _flag(0, "keep the k most likely tokens; 0 keeps all (masks: how many to show)", "generate")
    top_p: float = _flag(1.0, "keep the most likely tokens that hold this probability", "generate")
    seed: int | None = _flag(None, "seed of sampling [0]; to train, the same as --config.seed", "train", "generate")
    json: bool = _flag(False, "print one JSON document on standard output, and nothing else there", *PRINTING_VERBS)
    fork: str | None = _flag(None, "start anew in --workdir from the parameters of this run", "train")
    format: str = _flag("huggingface", "what to write: huggingface", "export")
    case: tuple[str, ...] = _flag((), "directory of a reference case; may be given several times", "verify")
    model: str | None = _flag(None, "directory of the checkpoint, where it is not the case's own", "verify")
    distributed: bool = _flag(False, "one process of a multi-host run whose environment names the others (TPU pods)")
    coordinator: str | None = _flag(None, "host:port of process 0 of a multi-host run")
    processes: int | None = _flag(None, "processes of the run")
    process: int | None = _flag(None, "number of this process")


# As absl calls what a field holds.
_KINDS = {"str": "string", "int": "integer", "float": "float", "bool": "boolean", "tuple[str, ...]": "multi_string"}
# Name, kind, default, verbs that read it (none: all), what it is.
FLAGS: tuple[tuple[str, str, Any, tuple[str, ...], str], ...] = tuple(
    (field.name, _KINDS[str(field.type).removesuffix(" | None")], *field.metadata["flag"])
    for field in dataclasses.fields(Request)
    if field.metadata
)


def reads(verb: str, verbs: tuple[str, ...]) -> bool:
    """Whether a verb reads a flag with this column of `FLAGS`."""
    return not verbs or verb in verbs


def describe(verb: str | None = None) -> str:
    """The flags, one a line, for `--help`: all of them, or those of a verb."""
    lines = ["flags:"]
    for name, kind, default, verbs, about in FLAGS:
        if verb is not None and not reads(verb, verbs):
            continue
        shown = f"--{name}" if kind == "boolean" else f"--{name}[=...]" if name == "checkpoint" else f"--{name}=..."
        only = f" ({', '.join(verbs)})" if verbs and verb is None and verbs != PRINTING_VERBS else ""
        value = f" [{default}]" if default not in (None, (), False) else ""
        lines.append(f"  {shown:18} {about}{value}{only}")
    if verb is None or verb in FIELD_VERBS:
        only = "" if verb else f" ({', '.join(FIELD_VERBS)})"
        lines.append(f"  {FIELDS + 'FIELD=...':18} a field of its config.json: JSON or text; empty leaves it out{only}")
    return "\n".join(lines)


def parse(verb: str, words: Sequence[str]) -> Request:
    """A request from the words after the verb.

    Raises:
      InputError: an unknown flag or key, or a value of the wrong type; nothing has been touched.
    """
    recipe, rest = _take_recipe(list(words))
    overrides = tuple(word for word in rest if word.startswith("--config."))
    rest = [word for word in rest if not word.startswith("--config.")]
    fields, rest = _take_fields(verb, rest)
    values, left = _parse_absl(verb, rest)
    if left and verb not in WORD_VERBS:
        raise InputError(f"{left[0]!r} is no flag, and {verb} takes flags only; flags begin with --")
    if verb == "train" and values["seed"] is not None:
        overrides = (*overrides, f"--config.seed={values['seed']}")
    config, changed = None, ()
    if recipe is not None:
        config, changed = configure(load_recipe(recipe), overrides)
    elif overrides and values["workdir"] is None:
        raise InputError(f"{overrides[0]} needs --config=RECIPE (lm-jax list shows the shipped ones)")
    values |= {name: tuple(values[name]) for name in ("prompt", "prompt_ids", "case")}
    return Request(
        verb=verb,
        recipe=recipe,
        config=config,
        changed=changed,
        overrides=overrides,
        words=tuple(left),
        fields=fields,
        **values,
    )


def load_recipe(name: str) -> Any:
    """The ConfigDict of `FILE[:VARIANT]` or of a shipped recipe `NAME[:VARIANT]`; the file is run as Python."""
    path, _, variant = name.partition(":")
    file = find_recipe(path)
    spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise InputError(f"--config={name}: {file} is no Python file; expected one ending in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ValueError("it defines no function get_config(variant)")
        variants = getattr(module, "VARIANTS", ())
        if variant in getattr(module, "MOVED", {}):
            print(f"lm-jax: --config={name} is now --config={module.MOVED[variant]}", file=sys.stderr)
            return load_recipe(module.MOVED[variant])
        if variant and variants and variant not in variants:
            raise ValueError(f"unknown variant {variant!r}; known: {', '.join(variants)}")
        return module.get_config(variant) if variant else module.get_config()
    except Exception as error:
        raise InputError(f"--config={name}: {type(error).__name__}: {error}") from error


def recipe_folder() -> Path:
    """The folder of shipped recipes: of the clone, or of the installed wheel, wherever its data went."""
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
    """A recipe's first line and its variants, read without running it."""
    tree = ast.parse(file.read_text())
    about = (ast.get_docstring(tree) or "").partition("\n")[0]
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "VARIANTS":
            keys = node.value.keys if isinstance(node.value, ast.Dict) else ast.literal_eval(node.value)
            return about, tuple(key.value if isinstance(key, ast.Constant) else key for key in keys)
    return about, ()


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of a shipped one."""
    if Path(name).is_file():
        return Path(name)
    shipped = recipe_folder() / (Path(name).name if name.endswith(".py") else f"{name}.py")
    if shipped.is_file() and Path(name).parent.name in ("", "configs"):
        return shipped
    names = sorted(file.stem for file in recipe_folder().glob("*.py"))
    raise InputError(
        f"--config={name}: no such file, and no shipped recipe of that name{nearest(name, names)}; "
        f"shipped: {', '.join(names)}"
    )


def configure(recipe: Any, overrides: Sequence[str]) -> tuple[Any, tuple[str, ...]]:
    """A recipe with every default filled in and the command line's values on top, and what those changed."""
    from lm_jax import experiment
    from lm_jax.core.config import differences

    before = experiment.complete(recipe)
    after = override(copy.deepcopy(before), overrides)
    return after, tuple(differences(before, after))


def override(config: Any, overrides: Sequence[str]) -> Any:
    """`config` with `--config.key=value` words applied; a value is read as the type that its key has."""
    from lm_jax.core.config import to_config_dict
    from lm_jax.data.config import ENTRIES

    for word in overrides:
        key, equals, text = word[len("--") :].partition("=")
        if not equals:
            raise InputError(f"{word} has no value; write {word}=VALUE")
        tree, path, names = config, "config", key.split(".")[1:]
        for depth, name in enumerate(names):
            last = depth == len(names) - 1
            # The names of these trees are the user's.
            if name not in tree and not last and path in ENTRIES:
                tree[name] = to_config_dict(ENTRIES[path]())
            if name not in tree:
                near = nearest(name, tree.keys()) or f"; known in {path}: {', '.join(tree.keys())}"
                raise InputError(f"unknown key {key}{near}")
            if last and hasattr(tree[name], "keys"):
                raise InputError(f"{word}: {key} is a tree of {', '.join(tree[name].keys())}; set one of these")
            if not last and not hasattr(tree[name], "keys"):
                raise InputError(f"unknown key {key}: {path}.{name} is a value, not a tree")
            if last:
                tree[name] = _value(tree, name, text, key)
            else:
                tree, path = tree[name], f"{path}.{name}"
    return config


def _value(tree: Any, name: str, text: str, key: str) -> Any:
    """`text` as the type of a field; `None` leaves an unset field unset."""
    kind = tree.get_type(name)
    if text == "None" and tree[name] is None:
        return None
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        if kind is bool:
            return words[text.lower()]
        if kind is tuple:
            return tuple(ast.literal_eval(text) if text[:1] in {*"(["} else map(_item, filter(None, text.split(","))))
        return kind(text)
    except (KeyError, ValueError, SyntaxError, TypeError) as error:
        raise InputError(f"{key} is {text!r}; expected {kind.__name__}") from error


def _item(text: str) -> int | float | str:
    """An item of a tuple that is written without quotes: a number where it reads as one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _take_recipe(words: list[str]) -> tuple[str | None, list[str]]:
    """Takes `--config=X` or `--config X` out of the words."""
    rest, recipe = [], None
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--config" and _is_value(words, at + 1):
            recipe, at = words[at + 1], at + 1
        elif word.startswith("--config="):
            recipe = word.partition("=")[2]
        elif word.startswith(("--config.", FIELDS)) and "=" not in word and _is_value(words, at + 1):
            rest.append(f"{word}={words[at + 1]}")
            at += 1
        else:
            rest.append(word)
        at += 1
    if recipe == "":
        raise InputError("--config= is empty; give a recipe, such as --config=gpt:tiny")
    return recipe, rest


def _take_fields(verb: str, words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Takes `--hf.FIELD=VALUE` out of the words."""
    given = [word for word in words if word.startswith(FIELDS)]
    if given and verb not in FIELD_VERBS:
        raise InputError(f"{verb} does not read {given[0]}, which is a flag of {', '.join(FIELD_VERBS)}")
    fields = {}
    for word in given:
        name, equals, text = word.removeprefix(FIELDS).partition("=")
        if not name or not equals:
            raise InputError(f"{word} sets nothing; write {FIELDS}{name or 'FIELD'}=VALUE, or no value to leave it out")
        fields[name] = text
    return fields, [word for word in words if not word.startswith(FIELDS)]


def _is_value(words: list[str], at: int) -> bool:
    return at < len(words) and not words[at].startswith("--")


def _parse_absl(verb: str, words: list[str]) -> tuple[dict[str, Any], list[str]]:
    from absl import flags as absl_flags

    # absl knows no flag whose value may be left out.
    words = [
        f"--checkpoint={LATEST}" if word == "--checkpoint" and not _is_value(words, at + 1) else word
        for at, word in enumerate(words)
    ]
    values = absl_flags.FlagValues()
    for name, kind, default, _, about in FLAGS:
        getattr(absl_flags, f"DEFINE_{kind}")(name, default, about, flag_values=values)
    try:
        left = values(["lm-jax", *words])[1:]
    except absl_flags.UnrecognizedFlagError as error:
        known = [name for name, *_ in FLAGS]
        raise InputError(
            f"unknown flag --{error.flagname}{nearest(error.flagname, known) or '; lm-jax --help lists them'}"
        ) from error
    except absl_flags.Error as error:
        raise InputError(str(error)) from error
    if "workdir" in values and values.workdir == "":
        raise InputError("--workdir= is empty; give a directory")
    for name in PATHS:
        check_local(values[name].value, f"--{name}")
    for word in left:
        check_local(word, verb)
    for name, _, _, verbs, _ in FLAGS:
        if values[name].present and not reads(verb, verbs):
            raise InputError(f"{verb} does not read --{name}, which is a flag of {', '.join(verbs)}")
    return {name: values[name].value for name, *_ in FLAGS}, left


def need_config(request: Request) -> Any:
    """The typed configuration of a request that must have one."""
    from lm_jax import experiment

    if request.config is None:
        raise InputError(
            f"{request.verb} needs --config=RECIPE[:VARIANT], such as --config=gpt:tiny; lm-jax list shows them"
        )
    return experiment.parse(request.config)


def need_workdir(request: Request) -> str:
    """The work directory of a request that must have one."""
    if request.workdir is None:
        raise InputError(f"{request.verb} needs --workdir=DIR")
    return request.workdir
