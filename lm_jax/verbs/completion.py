"""`lm-jax completion bash|zsh|fish`: a script that completes verbs, flags, recipes, presets and config keys.

The scripts call `lm-jax completion answer LINE`, which prints the candidates for the last word, one per line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lm_jax import flags
from lm_jax.core.config import InputError, lookup

# bash splits words at = and : and replaces only the last part.
BASH = r"""# eval "$(lm-jax completion bash)"   (in ~/.bashrc)
_lm_jax() {
  local line=${COMP_LINE:0:COMP_POINT} word head= IFS=$'\n'
  word=${line##*[[:space:]]}
  if [[ $word == *[=:]* && $COMP_WORDBREAKS == *:* ]]; then head=${word%"${word##*[=:]}"}; fi
  COMPREPLY=($(lm-jax completion answer "$line" 2>/dev/null))
  COMPREPLY=("${COMPREPLY[@]#"$head"}")
  [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=.:] ]] && compopt -o nospace
  return 0
}
complete -o default -F _lm_jax lm-jax
"""
ZSH = r"""# eval "$(lm-jax completion zsh)"   (in ~/.zshrc, after compinit)
_lm_jax() {
  local -a open whole
  local candidate
  for candidate in ${(f)"$(lm-jax completion answer "${(j: :)words[1,CURRENT]}" 2>/dev/null)"}; do
    if [[ $candidate == *[=.:] ]]; then open+=$candidate; else whole+=$candidate; fi
  done
  (( ${#open} )) && compadd -S '' -- $open
  (( ${#whole} )) && compadd -- $whole
  if (( ! ${#open} && ! ${#whole} )); then
    compset -P '*='
    _files
  fi
}
compdef _lm_jax lm-jax
"""
FISH = r"""# lm-jax completion fish | source   (in config.fish)
function __lm_jax
  set -l answer (lm-jax completion answer (commandline -cp) 2>/dev/null)
  if test (count $answer) -gt 0
    printf '%s\n' $answer
  else
    set -l word (commandline -ct)
    set -l flag (string match -r -- '^--[^=]*=' $word)
    for path in (__fish_complete_path (string replace -r -- '^--[^=]*=' '' $word))
      printf '%s%s\n' "$flag" $path
    end
  end
end
complete -c lm-jax -f -a '(__lm_jax)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def run(words: Sequence[str], verbs: Mapping[str, tuple[str, str]]) -> int:
    """Prints the script of a shell, or the candidates for a line."""
    if list(words[:1]) == ["answer"]:
        print("\n".join(answer(" ".join(words[1:]), list(verbs))))
        return 0
    if len(words) != 1:
        raise InputError(f"completion needs the name of a shell: {', '.join(SCRIPTS)}")
    print(lookup(SCRIPTS, words[0], "the shell"), end="")
    return 0


def answer(line: str, verbs: Sequence[str]) -> list[str]:
    """Returns the candidates for the last word of a line, as whole words; empty where a file name is expected."""
    words = line.split()[1:]
    word = "" if not words or line[-1:].isspace() else words.pop()
    if not words:
        return _starting(word, [*verbs, "--help", "--version"])
    if words[0] == "completion":
        return _starting(word, list(SCRIPTS))
    if words[-1] == "--config":
        return _starting(word, _recipes(word))
    if word.startswith("--config="):
        return _starting(word, [f"--config={name}" for name in _recipes(word.partition("=")[2])])
    if word.startswith("--config.") and "=" not in word:
        return _next_step(word, [f"--{key}=" for key in _keys(words)])
    if word.startswith("-") and "=" not in word:
        return _starting(word, list(_flags(words[0])))
    if words[0] == "inspect" and word:
        return _presets(word)
    return [] if word or words[0] in flags.WORD_VERBS else list(_flags(words[0]))


def _starting(word: str, candidates: Sequence[str]) -> list[str]:
    return [candidate for candidate in candidates if candidate.startswith(word)]


def _flags(verb: str) -> Iterator[str]:
    yield "--config="
    yield "--config."
    for name, kind, _, verbs, _ in flags.FLAGS:
        if flags.reads(verb, verbs):
            yield f"--{name}" if kind == "boolean" else f"--{name}="
    if verb in flags.NAMED_VERBS:
        yield flags.FIELDS
        yield flags.ROLES
    yield "--help"


def _recipes(word: str) -> list[str]:
    """Returns `NAME:VARIANT` of every shipped recipe, or the variants of the user's own file."""
    name, colon, _ = word.partition(":")
    if colon and Path(name).is_file():
        return [f"{name}:{variant}" for variant in flags.about_recipe(Path(name))[1]]
    files = sorted(flags.recipe_folder().glob("*.py"))
    return [f"{file.stem}:{variant}" for file in files for variant in flags.about_recipe(file)[1]]


def _presets(word: str) -> list[str]:
    """Completes `PRESET:SIZE`, or the name of a directory, which may be a run."""
    from lm_jax.models.presets import PRESETS

    name, colon, _ = word.partition(":")
    if colon:
        return _starting(word, [f"{name}:{size}" for size in PRESETS[name].sizes]) if name in PRESETS else []
    return _starting(word, [f"{preset}:" for preset in PRESETS]) + sorted(
        str(path) for path in Path().glob("*") if path.is_dir() and str(path).startswith(word)
    )


def _keys(words: Sequence[str]) -> list[str]:
    """Returns the keys of the recipe in `--config`, or of the run in `--workdir`."""
    from lm_jax.verbs.keys import keys

    recipes = [word.partition("=")[2] for word in words if word.startswith("--config=")]
    recipes += [value for word, value in zip(words, words[1:], strict=False) if word == "--config"]
    runs = [Path(word.partition("=")[2]) / "config.json" for word in words if word.startswith("--workdir=")]
    try:
        if recipes:
            return keys(flags.load_recipe(recipes[0]))
        return keys(json.loads(runs[0].read_text())) if runs and runs[0].is_file() else []
    except (InputError, ValueError, OSError):
        return []


def _next_step(word: str, candidates: Sequence[str]) -> list[str]:
    """Truncates keys after their next dot, as shells complete paths; descends while there is only one choice."""
    matches = _starting(word, candidates)
    while True:
        steps = list(dict.fromkeys(_truncate(candidate, len(word)) for candidate in matches))
        if len(steps) != 1 or not steps[0].endswith("."):
            return steps
        word = steps[0]


def _truncate(candidate: str, start: int) -> str:
    dot = candidate.find(".", start)
    return candidate if dot < 0 else candidate[: dot + 1]
