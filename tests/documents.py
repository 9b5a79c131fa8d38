"""The code blocks of the README and of docs, and how tests run them.

A block of `sh` or `python` is run, unless the line before it says why not: `<!-- not run: needs a TPU pod -->`. Blocks
in other languages, or in none, are outputs. The `config` of a Python block is the recipe `gpt:tiny`, which it may
change.
"""

import dataclasses
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import workdirs
from ml_collections import ConfigDict

from lm_jax import experiment, flags
from tests.commands import ROOT, lm_jax

README, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
# CHINESE has the blocks of README, as a test shows, so they are run once.
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = [*PAGES, CHINESE, ROOT / "CONTRIBUTING.md"]
LANGUAGES = ("sh", "bash", "console", "python")
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block; it is run if `reason` is empty and `language` is one of `LANGUAGES`."""

    language: str
    code: str
    reason: str = ""

    @property
    def runs(self) -> bool:
        return self.language in LANGUAGES and not self.reason


def blocks(text: str, language: str = "") -> list[Block]:
    """The fenced blocks of a Markdown text in order: those of a language, or all."""
    found = [Block(match["language"], match["code"], match["reason"] or "") for match in BLOCK.finditer(text)]
    return [block for block in found if language in ("", block.language)]


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a shell block, without comments and without variables set before it."""
    lines = block.code.replace("\\\n", " ").splitlines()
    split = (shlex.split(line, comments=True) for line in lines)
    words = ([word for word in line if not re.match(r"[A-Z_]+=", word)] for line in split)
    return [line for line in words if line]


def check_flags(words: list[str]) -> None:
    """Parses the flags of a command and, if its recipe is a shipped one, its whole configuration."""
    verb, rest = words[1], words[2:]
    recipe = next((word.partition("=")[2] for word in rest if word.startswith("--config=")), "")
    if "/" in recipe:
        # Written by an earlier command: its keys are those of every recipe.
        rest = [word if word != f"--config={recipe}" else "--config=gpt:tiny" for word in rest]
    with tempfile.TemporaryDirectory() as folder:
        # Written by an earlier command, too.
        fork = f"--fork={workdirs.configure(Path(folder))}"
        request = flags.parse(verb, [fork if word.startswith("--fork=") else word for word in rest])
    if request.config is not None:
        experiment.parse(request.config)


def run_shell(words: list[str], extra: dict[str, list[str]]) -> int:
    """The exit code of a command, `lm-jax` in this process; `extra` flags are added to those of a verb."""
    if words[0] == "lm-jax":
        return lm_jax(*words[1:], *extra.get(words[1], []))
    return subprocess.run(words).returncode


def run_python(block: Block, names: dict) -> None:
    """Runs a Python block with the names of the blocks before it; checks a recipe that it changes."""
    names["config"] = flags.load_recipe("gpt:tiny")
    exec(block.code, names)
    if isinstance(names["config"], ConfigDict) and "objective" in names["config"]:
        experiment.parse(experiment.complete(names["config"]))


def links(page: Path) -> Iterator[str]:
    """The targets of the links and images of a page, outside of code."""
    text = re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S))
    yield from re.findall(r"\]\(([^)\s]+)", text)
    yield from re.findall(r"""\b(?:href|src)=["']([^"']+)""", text)


def words_of_cells(page: Path) -> Iterator[list[str]]:
    """The words of each cell of a page's tables, without the targets of links; two ideographs count as a word."""
    for row in re.findall(r"^\|(.+)\|$", page.read_text(), re.M):
        for cell in re.sub(r"\]\([^)]*\)", "", row).split("|"):
            yield re.findall(r"[\u4e00-\u9fff]{1,2}|[^\W\u4e00-\u9fff]+(?:[-.'][^\W\u4e00-\u9fff]+)*", cell)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST write them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
