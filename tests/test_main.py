"""The command line: bad input is refused in one line before anything is written; help; JSON."""

import json
import re
import subprocess
import sys

import pytest

from lm_jax import flags
from lm_jax.main import VERBS, command
from lm_jax.objectives import OBJECTIVES
from tests.commands import golden_flags, lm_jax, run

BAD = {
    "unknown verb": (["trian"], "did you mean train"),
    "unknown flag": (["train", "--config=gpt:tiny", "--wrokdir=x"], "did you mean workdir"),
    "unknown recipe": (["train", "--config=gptt:tiny", "--workdir=W"], "did you mean gpt"),
    "unknown variant": (["train", "--config=gpt:huge", "--workdir=W"], "unknown variant 'huge'"),
    "unknown key": (
        ["train", "--config=gpt:tiny", "--config.model.stack.detph=3", "--workdir=W"],
        "did you mean depth",
    ),
    "wrong type": (["train", "--config=gpt:tiny", "--config.train.steps=1e3", "--workdir=W"], "expected int"),
    "a tree for a value": (["train", "--config=gpt:tiny", "--config.model=3", "--workdir=W"], "is a tree"),
    "key without value": (["train", "--config=gpt:tiny", "--config.data.batch", "--workdir=W"], "has no value"),
    "no recipe": (["train", "--workdir=W"], "needs --config"),
    "no workdir": (["train", "--config=gpt:tiny"], "needs --workdir"),
    "unknown choice": (
        ["train", "--config=gpt:tiny", "--config.optimizer.name=adam", "--workdir=W", "GOLDEN"],
        "adamw",
    ),
    "unknown dtype": (["train", "--config=gpt:tiny", "--config.model.dtype=int8", "--workdir=W"], "float32, bfloat16"),
    "missing file": (
        ["train", "--config=gpt:tiny", "--config.data.path=nowhere.txt", "--workdir=W"],
        "no file nowhere",
    ),
    "no work directory": (["generate", "--workdir=W", "--prompt=a"], "holds no config.json"),
    "evaluating nothing": (["evaluate", "--workdir=W"], "holds no config.json"),
    "objective of another kind": (
        ["train", "--config=gpt:tiny", "--config.objective.name=masked", "--workdir=W", "GOLDEN"],
        "trains encoder models",
    ),
    "batch that does not divide": (
        ["train", "--config=gpt:tiny", "--config.data.batch=12", "--workdir=W", "GOLDEN"],
        "use 8 or 16",
    ),
    "accumulation that does not divide": (
        ["train", "--config=gpt:tiny", "--config.train.accumulate=3", "--workdir=W", "GOLDEN"],
        "use 24",
    ),
    "mesh that does not fill": (
        ["train", "--config=gpt:tiny", "--config.mesh.data=3", "--workdir=W", "GOLDEN"],
        "does not fill 8 devices",
    ),
    "a rule of no mesh axis": (
        ["train", "--config=gpt:tiny", "--config.rules.stream=tensr", "--workdir=W", "GOLDEN"],
        "config.rules.stream is ('tensr',), but 'tensr' is not one of the mesh axes data, fsdp, tensor; did you mean",
    ),
    "two rules on one mesh axis": (
        ["train", "--config=gpt:tiny", "--config.rules.mlp=fsdp", "--workdir=W", "GOLDEN"],
        "config.rules.mlp is ('fsdp',), but config.rules.batch",
    ),
    "vocabulary larger than the corpus allows": (
        ["train", "--config=gpt:tiny", "--config.data.tokenizer.vocab=30000", "--workdir=W", "TEXT"],
        "config.data.tokenizer.vocab",
    ),
    "rows longer than positions": (
        ["train", "--config=gpt:tiny", "--config.data.length=100", "--workdir=W", "GOLDEN"],
        "config.model.embed.max_length",
    ),
    "text too short for a row": (
        ["train", "--config=gpt:tiny", "--config.data.validation=0.999", "--workdir=W", "GOLDEN"],
        "shorten config.data.length",
    ),
    "heads that do not divide": (
        ["train", "--config=gpt:tiny", "--config.model.stack.block.attention.heads=3", "--workdir=W", "GOLDEN"],
        "not divisible",
    ),
    "warmup beyond the end": (
        ["train", "--config=gpt:tiny", "--config.optimizer.schedule.warmup=5000", "--workdir=W", "GOLDEN"],
        "longer than",
    ),
    "tokenizer of a missing text": (["tokenizer", "--config=gpt:tiny", "--config.data.path=no/*.txt"], "no file"),
    "data of a missing text": (["data", "--config=gpt:tiny", "--config.data.path=no.jsonl.zst"], "no file"),
    "a flag of another verb": (["train", "--config=gpt:tiny", "--workdir=W", "--prompt=a"], "is a flag of generate"),
    "a word that is not a flag": (["train", "gpt:tiny", "--workdir=W"], "takes only flags"),
    "unknown writer": (
        ["train", "--config=gpt:tiny", "--config.log.writers=jsonl,tensorbord", "--workdir=W", "GOLDEN"],
        "did you mean tensorboard",
    ),
    "a profile of no steps": (
        ["train", "--config=gpt:tiny", "--config.log.profile=9,3", "--workdir=W"],
        "first and last step",
    ),
    "a learning rate below 0": (
        ["train", "--config=gpt:tiny", "--config.optimizer.learning_rate=-1", "--workdir=W"],
        "config.optimizer.learning_rate is -1.0; expected a number at least 0",
    ),
    "not a number": (
        ["train", "--config=gpt:tiny", "--config.optimizer.clip=nan", "--workdir=W"],
        "config.optimizer.clip is nan",
    ),
    "a decay rate of 1": (
        ["train", "--config=gpt:tiny", "--config.optimizer.adamw.b2=1", "--workdir=W"],
        "at least 0 and below 1",
    ),
    "logging never": (["train", "--config=gpt:tiny", "--config.log.every=-1", "--workdir=W"], "config.log.every"),
    "keeping no checkpoint": (
        ["train", "--config=gpt:tiny", "--config.checkpoint.keep=0", "--workdir=W", "GOLDEN"],
        "config.checkpoint.keep is 0; expected a number at least 1",
    ),
    "half a step of warmup": (
        ["train", "--config=gpt:tiny", "--config.optimizer.schedule.warmup=2.5", "--workdir=W"],
        "a fraction below 1, or whole steps",
    ),
    "a bucket to work in": (["train", "--config=gpt:tiny", "--workdir=gs://bucket/x"], "--workdir is gs://bucket/x"),
    "a bucket to read": (["evaluate", "--workdir=s3://bucket/x"], "a path on this machine"),
    "a bucket of text": (
        ["train", "--config=gpt:tiny", "--workdir=W", "--config.data.path=a.txt,gs://b/c.txt"],
        "config.data.path is gs://b/c.txt",
    ),
    "a bucket of stores": (
        ["data", "--config=gpt:tiny", "--config.data.store=gs://b/store"],
        "config.data.store is gs://b/store",
    ),
    "a bucket of a mixture": (
        ["data", "--config=gpt:tiny", "--config.data.mixture.sources.a.path=gs://b/a.txt"],
        "config.data.mixture.sources.a.path is gs://b/a.txt",
    ),
    "a bucket to import": (["import", "gs://b/model", "--workdir=W"], "gs://b/model"),
    "a recipe that is not Python": (["train", "--config=FILE", "--workdir=W"], "is not a Python file"),
    "a work directory that is a file": (["train", "--config=gpt:tiny", "--workdir=FILE", "GOLDEN"], "is a file"),
    "a work directory below a file": (
        ["train", "--config=gpt:tiny", "--workdir=FILE/run", "GOLDEN"],
        "is a file; give a directory",
    ),
    "a work directory that cannot be made": (
        ["train", "--config=gpt:tiny", "--workdir=/proc/lm_jax", "GOLDEN"],
        "/proc cannot be written",
    ),
    "a store that is a file": (
        ["data", "--config=gpt:tiny", "--config.data.store=FILE", "--config.data.path=FILE"],
        "note.txt",
    ),
    "a store that cannot be made": (
        ["data", "--config=gpt:tiny", "--config.data.store=/proc/lm_jax", "--config.data.path=FILE"],
        "$LM_JAX_CACHE) /proc/lm_jax: /proc cannot be written",
    ),
    "forking from nothing": (["train", "--config=gpt:tiny", "--fork=nowhere", "--workdir=W", "GOLDEN"], "nowhere"),
    "a verb that does not exist": (["forecast", "--workdir=W"], "unknown verb 'forecast'"),
    "inspecting nothing": (["inspect"], "needs --config"),
    "curves of no run": (["inspect", "--workdir=W"], "metrics.jsonl"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_two_and_leaves_nothing(case, tmp_path, monkeypatch, capsys):
    words, expected = BAD[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LM_JAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "note.txt").write_text("A note.\n")
    words = [word.replace("=W", f"={tmp_path / 'run'}") for word in words]
    words = [word.replace("=FILE", f"={tmp_path / 'note.txt'}") for word in words]
    if "GOLDEN" in words:
        names = {word.partition("=")[0] for word in words}
        flags = [flag for flag in golden_flags(tmp_path / "cache") if flag.partition("=")[0] not in names]
        words = [*words[: words.index("GOLDEN")], *flags]
    if "TEXT" in words:
        flags = [flag for flag in golden_flags(tmp_path / "cache") if "tokenizer" not in flag]
        words = [*words[: words.index("TEXT")], *flags]

    code = lm_jax(*words)

    errors = [line for line in capsys.readouterr().err.splitlines() if not line.endswith(" ...")]
    assert code == 2
    assert len(errors) == 1, errors
    assert errors[0].startswith("lm-jax ") and expected in errors[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", [b"", b"\n\n  \n"])
def test_an_empty_corpus_is_refused(text, tmp_path, capsys):
    path = tmp_path / "empty.txt"
    path.write_bytes(text)

    code = lm_jax(
        "train",
        "--config=gpt:tiny",
        f"--config.data.path={path}",
        f"--config.data.store={tmp_path / 's'}",
        f"--workdir={tmp_path / 'run'}",
    )

    assert code == 2
    assert "config.data.path" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_help_names_every_verb_and_flag(capsys):
    assert lm_jax("--help") == 0
    words = capsys.readouterr().out.replace("=", " ").replace("[", " ").split()
    assert set(VERBS) <= set(words)
    assert {f"--{name}" for name, *_ in flags.FLAGS} <= set(words)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_of_a_verb_names_the_flags_that_it_reads_and_no_others(verb, capsys):
    assert lm_jax(verb, "--help") == 0
    names = set(re.findall(r"^  (--(?:hf\.|role\.)?\w+)", capsys.readouterr().out, re.MULTILINE))
    named = {name.partition("=")[0] for name in flags.NAMED} if verb in flags.NAMED_VERBS else set()
    assert names - {"--workdir"} == named | {
        f"--{name}" for name, _, _, verbs, _ in flags.FLAGS if flags.reads(verb, verbs) and name != "workdir"
    }


def test_help_does_not_import_jax():
    code = "import sys, lm_jax.main; lm_jax.main.main(['lm-jax', '--help']); print('jax' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "False"


def test_list_shows_recipes_and_choices_as_json(capsys):
    assert lm_jax("list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert "tiny" in listed["recipes"]["bert"]["variants"]
    assert set(listed["choices"]["objective"]) == set(OBJECTIVES)


def test_inspect_shows_every_parameter_of_a_recipe(capsys):
    assert lm_jax("inspect", "--config=bert:tiny") == 0
    output = capsys.readouterr().out
    assert "stack/layers/attention/query/kernel" in output
    assert "'fsdp'" in output


def test_doctor_names_versions_and_devices(capsys):
    lm_jax("doctor", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["devices"] and "jax" in facts["versions"]


def test_a_used_work_directory_refuses_another_model(tmp_path, capsys):
    flags = [
        "train",
        "--config=gpt:tiny",
        "--config.train.steps=1",
        "--config.optimizer.schedule.warmup=0",
        f"--workdir={tmp_path / 'run'}",
        *golden_flags(tmp_path / "s"),
    ]
    assert lm_jax(*flags) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}

    assert lm_jax(*flags, "--config.model.stack.depth=3") == 2

    assert "config.model.stack.depth: 2 -> 3" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}


def test_a_separate_process_exits_with_the_same_code():
    process = run("train", "--config=gpt:tiny", "--config.model.widht=3", "--workdir=x")
    assert process.returncode == 2 and process.stderr.count("\n") == 1


def test_a_command_that_fails_in_a_notebook_raises(capsys):
    with pytest.raises(RuntimeError, match="exit code 2"):
        command("train --config='gpt:a variant' --workdir=W")
    assert "unknown variant 'a variant'" in capsys.readouterr().err
