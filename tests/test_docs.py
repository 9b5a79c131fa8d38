"""The README and the pages in docs: commands and examples run, links lead somewhere, tables are complete."""

import importlib.util
import json
import lzma
import pydoc_data.topics
import re
import shutil

import pytest
import tiny

from lm_jax.core.config import InputError
from lm_jax.data import plans
from lm_jax.data.tokenizers import KINDS
from lm_jax.interop import choice
from lm_jax.models.presets import PRESETS
from lm_jax.objectives import OBJECTIVES
from lm_jax.objectives.denoise import NOISES
from lm_jax.parallel.rules import Rules
from lm_jax.train.moments import FORMATS
from lm_jax.train.optimizers import OPTIMIZERS
from lm_jax.train.schedules import SCHEDULES
from lm_jax.train.writers import WRITERS
from tests import documents
from tests.commands import GOLDEN, ROOT, lm_jax
from tests.documents import DOCUMENTS, PAGES

SHORT = ["--config.train.steps=4", "--config.data.workers=1", "--config.evaluate.batches=1"]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
FILES = re.compile(r"(?<![\w/])(?:configs|launch|benchmarks|tests|docs|lm_jax)/[\w./-]+\.(?:py|sh|md)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that the pages name: texts, a checkpoint with a tokenizer, and two short runs."""
    folder = tmp_path_factory.mktemp("docs")
    topics = "\n\n".join(pydoc_data.topics.topics.values())
    (folder / "my.txt").write_text(topics[:150_000])
    (folder / "input.txt").write_text(topics[:100_000])
    (folder / "other.txt").write_text(topics[:20_000])
    (folder / "english").mkdir()
    record = '{"text": "The quick brown fox jumps over the lazy dog number %d."}\n'
    (folder / "english" / "a.jsonl.xz").write_bytes(lzma.compress("".join(record % i for i in range(900)).encode()))
    rows = "".join(f"卷{i // 9}\t其{i}曰\t这是第{i}句话，项羽率领军队渡过河{i % 7}。\n" for i in range(900))
    (folder / "pairs.tsv.xz").write_bytes(lzma.compress(f"book\tclassical\tmodern\n{rows}".encode()))
    kinds = [("good", "5"), ("bad", "1")]
    reviews = [(f"a {word} film about the sea, part {number}", stars) for number in range(40) for word, stars in kinds]
    (folder / "reviews.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{stars}\n" for text, stars in reviews))
    (folder / "new.tsv").write_text("text\n" + "".join(f"{text}\n" for text, _ in reviews[:3]))
    films = (json.dumps({"review": text, "stars": int(stars)}) for text, stars in reviews)
    (folder / "films.jsonl").write_text("".join(f"{film}\n" for film in films))
    shutil.copytree(GOLDEN / "text_llama", folder / "checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LM_JAX_CACHE", str(folder / "cache"))
        for run in ("mine", "second"):
            train = ["train", "--config=gpt:tiny", "--config.data.path=my.txt", f"--workdir=runs/{run}"]
            assert lm_jax(*train, *SHORT) == 0
    return folder


@each_page
def test_flags_and_recipes_of_a_page_are_valid(page):
    for block in documents.blocks(page.read_text()):
        if block.language == "python" and "import" not in block.code:
            documents.run_python(block, {})
        elif block.language == "python":
            compile(block.code, page.name, "exec")
        elif block.language == "sh":
            for words in documents.commands(block):
                if words[0] == "lm-jax":
                    documents.check_flags(words)


@pytest.mark.docs
@each_page
def test_commands_of_a_page_run_in_order(page, folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "page", ignore=shutil.ignore_patterns("cache"))
    monkeypatch.chdir(tmp_path / "page")
    monkeypatch.setenv("LM_JAX_CACHE", str(folder / "cache"))
    names: dict = {}
    for block in documents.blocks(page.read_text()):
        if block.runs and block.language == "python":
            documents.run_python(block, names)
        elif block.runs:
            for words in documents.commands(block):
                assert documents.run_shell(words, {"train": SHORT}) == 0, " ".join(words)


def test_every_block_is_run_or_says_why_not():
    for page in PAGES:
        fences = re.findall(r"^```(\w+)", page.read_text(), re.M)
        read = documents.blocks(page.read_text())
        code = [language for language in fences if language in documents.LANGUAGES]
        assert code == [block.language for block in read if block.language in documents.LANGUAGES], page.name
        assert {block.language for block in read if block.runs} <= {"sh", "python"}, page.name


def test_links_lead_to_files_and_headings():
    spec = importlib.util.spec_from_file_location("conf", ROOT / "docs" / "conf.py")
    assert spec is not None and spec.loader is not None
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    reference = {conf.REFERENCE / f"{package}.md" for package in conf.PACKAGES}
    for page in DOCUMENTS:
        for link in documents.links(page):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if link.startswith(("http:", "https:", "mailto:")) or target in reference:
                continue
            assert target.exists(), f"{page.name} links to {link}"
            assert not anchor or anchor in documents.anchors(target), f"{page.name} links to {link}"


def test_files_that_the_documents_name_exist():
    for page in DOCUMENTS:
        for path in FILES.findall(page.read_text()):
            assert (ROOT / path).exists(), f"{page.name} names {path}"


@pytest.mark.docs
def test_the_page_about_weights_names_the_presets_that_cannot_be_exported():
    refused = set()
    for preset in PRESETS:
        try:
            choice.tree_for(tiny.config(preset))
        except InputError:
            refused.add(preset)
    named = re.search(r"no class: ([^.]+)\.", (ROOT / "docs" / "weights.md").read_text())
    assert named is not None and set(re.findall(r"`(\w+)`", named[1])) == refused


def test_glossary_lists_every_logical_axis_with_its_default():
    lines = re.findall(r"^\| `(\w+)` \| [^|]+ \| ?([\w, ]*?) ?\|$", (ROOT / "docs" / "glossary.md").read_text(), re.M)
    assert dict(lines) == {name: ", ".join(axes) for name, axes in vars(Rules()).items()}


@pytest.mark.parametrize(
    "page, choices",
    [
        ("models", PRESETS),
        ("objectives", OBJECTIVES),
        ("objectives", {name.replace("permute", "permuted"): each for name, each in NOISES.items()}),
        ("tokenizers", KINDS),
        ("training", OPTIMIZERS),
        ("training", SCHEDULES),
        ("training", FORMATS),
        ("watching", WRITERS),
        ("data", plans.PLANS),
    ],
)
def test_pages_name_every_choice(page, choices):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    missing = [name for name in choices if not re.search(rf"\b{name}", text)]
    assert not missing
