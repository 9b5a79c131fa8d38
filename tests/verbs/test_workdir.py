"""A work directory keeps its run intact, records changes, and belongs to one process at a time."""

import json
import re
import shutil
import signal
import subprocess
import sys

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from lm_jax import experiment, flags
from lm_jax.core.config import InputError
from lm_jax.core.trees import named_leaves
from lm_jax.data import tokenizers
from lm_jax.experiment import Experiment
from lm_jax.models.presets import PRESETS
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.verbs import workdir as workdirs
from tests.commands import GOLDEN, lm_jax

STEPS = 6  # As in the other short runs of gpt:tiny, whose compiled step is reused.


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A directory with copies of the text and the tokenizer, in which runs create their store."""
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copy(GOLDEN / "text.txt", folder / "text.txt")
    shutil.copytree(GOLDEN / "tokenizer", folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def train(inputs):
    def start(workdir, *words, text=None, tokenizer=None):
        return lm_jax(
            "train",
            "--config=gpt:tiny",
            f"--workdir={workdir}",
            f"--config.data.path={text or inputs / 'text.txt'}",
            "--config.data.document=paragraph",
            f"--config.data.tokenizer.path={tokenizer or inputs / 'tokenizer'}",
            f"--config.data.store={inputs / 'store'}",
            "--config.data.workers=1",
            f"--config.train.steps={STEPS}",
            "--config.evaluate.batches=1",
            "--config.optimizer.schedule.warmup=1",
            *words,
        )

    return start


@pytest.fixture(scope="module")
def finished(train, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    assert train(workdir) == 0
    return workdir


@pytest.fixture
def run(finished, tmp_path):
    """A finished run that a test may change."""
    return shutil.copytree(finished, tmp_path / "run")


def contents(workdir):
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


def last_error(capsys):
    """Returns the error, which must be one line; other lines report progress."""
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.endswith(" ...")]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("steps", [STEPS, STEPS + 2])
def test_a_changed_text_is_refused_and_the_run_keeps_every_byte(run, train, inputs, tmp_path, steps, capsys):
    text = tmp_path / "grown.txt"
    text.write_text((inputs / "text.txt").read_text() + "\n\nOne more paragraph, and another one.\n")
    before = contents(run)
    assert train(run, f"--config.train.steps={steps}", text=text) == 2
    assert "is not the one that" in last_error(capsys)
    assert contents(run) == before


def test_a_replaced_tokenizer_is_refused_and_the_run_keeps_every_byte(run, train, inputs, tmp_path, capsys):
    flags = (f"--output={tmp_path / 'other'}", f"--config.data.path={inputs / 'text.txt'}")
    kind = ("--config.data.tokenizer.kind=bytes", f"--config.data.store={inputs / 'store'}")
    assert lm_jax("tokenizer", "--config=gpt:tiny", *flags, *kind) == 0
    capsys.readouterr()
    before = contents(run)
    assert train(run, f"--config.train.steps={STEPS + 2}", tokenizer=tmp_path / "other") == 2
    assert "the tokenizer is not the one" in last_error(capsys)
    assert contents(run) == before


def test_a_text_that_has_moved_is_the_same_text(run, train, inputs, tmp_path, capsys):
    moved = shutil.copy(inputs / "text.txt", tmp_path / "moved.txt")
    before = contents(run)
    assert train(run, text=moved) == 0
    assert f"is at step {STEPS} of {STEPS}" in capsys.readouterr().out
    assert contents(run) == before


@pytest.mark.parametrize("verb", ["generate", "evaluate", "export"])
def test_every_verb_that_reads_parameters_compares_their_tokenizer(verb, run, inputs, tmp_path, capsys):
    settings = json.loads((run / "tokenizer" / "lm_jax_tokenizer.json").read_text())
    shutil.rmtree(run / "tokenizer")
    flags = (f"--config.data.path={inputs / 'text.txt'}", f"--config.data.store={inputs / 'store'}")
    other = ("--config.data.tokenizer.kind=characters", f"--output={run / 'tokenizer'}")
    assert lm_jax("tokenizer", "--config=gpt:tiny", *flags, *other) == 0
    capsys.readouterr()
    output = [f"--output={tmp_path / 'out'}"] if verb == "export" else []
    assert lm_jax(verb, f"--workdir={run}", *output) == 2
    assert settings["fingerprint"][:8] in last_error(capsys)


def test_rates_schedule_and_clipping_may_change_and_the_history_records_it(run, train, capsys):
    files = {path: data for path, data in contents(run).items() if path.parent == run or "tokenizer" in str(path)}
    changes = (
        "--config.optimizer.learning_rate=0.001",
        "--config.optimizer.clip=0",
        "--config.optimizer.schedule.name=linear",
    )
    assert train(run, *changes, f"--config.train.steps={STEPS + 2}") == 0
    output = capsys.readouterr().out
    assert f"resuming from step {STEPS}" in output
    config = json.loads((run / "config.json").read_text())
    (entry,) = config["history"]
    assert entry["step"] == STEPS and entry["date"].startswith("20")
    assert "config.optimizer.clip: 1.0 -> 0.0" in entry["changes"] and len(entry["changes"]) == 4
    assert all(f"changed since then: {line}" in output for line in entry["changes"])
    assert config["optimizer"]["learning_rate"] == 0.001
    for path, data in files.items():
        if path.name not in ("config.json", "metrics.jsonl"):
            assert path.read_bytes() == data, path
    # Verbs that read the configuration ignore its history.
    assert lm_jax("generate", f"--workdir={run}", "--prompt=The", "--max_tokens=1") == 0
    assert lm_jax("inspect", str(run)) == 0


def test_a_column_saved_without_the_keys_of_a_later_version_has_not_changed(tmp_path):
    columns = {"text": {}, "label": {"kind": "label"}}
    recipe = ConfigDict({"model": PRESETS["bert"].build("tiny"), "data": {"columns": columns}})
    config = experiment.parse(experiment.complete(recipe))
    saved = experiment.as_json(config)
    for column in saved["data"]["columns"].values():
        del column["dev"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert workdirs.changes(config, tmp_path) == []


def test_a_run_that_is_killed_after_a_change_was_recorded_still_resumes(run, train, capsys):
    changes = ("--config.optimizer.clip=0", "--config.optimizer.learning_rate=0.001")
    path = run / "config.json"
    config = json.loads(path.read_text())
    config["optimizer"].update(clip=0.0, learning_rate=0.001)
    path.write_text(json.dumps(config))
    words = (*changes, "--config.optimizer.schedule.name=linear", f"--config.train.steps={STEPS + 2}")
    assert train(run, *words) == 0
    assert f"resuming from step {STEPS}" in capsys.readouterr().out


def test_without_a_validation_part_a_run_is_trained_and_saved(train, inputs, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert train(workdir, "--config.data.validation=0", "--config.evaluate.every=2") == 0
    assert capsys.readouterr().out.count("there will be no evaluation") == 1
    assert (workdir / "checkpoints" / str(STEPS) / "manifest.json").is_file()
    assert lm_jax("evaluate", f"--workdir={workdir}") == 2
    assert "nothing to evaluate" in last_error(capsys)


def test_a_second_run_is_refused_with_the_process_of_the_first(run, train, capsys):
    with workdirs.owned(run):
        before = contents(run)
        assert train(run, f"--config.train.steps={STEPS + 2}") == 2
        error = last_error(capsys)
        assert "is in use by process " in error and " on " in error
        assert contents(run) == before
    assert not (run / workdirs.LOCK).exists()


def test_the_lock_of_a_killed_process_is_released(run):
    code = f"""
import fcntl, sys, time
file = open({str(run / workdirs.LOCK)!r}, "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None and owner.stdout.readline() == "locked\n"
    with pytest.raises(ValueError, match="is in use"), workdirs.owned(run):
        pass
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    with workdirs.owned(run):
        pass


def test_a_fork_whose_parameters_do_not_fit_leaves_no_directory(train, finished, tmp_path, capsys):
    workdir = tmp_path / "fork"
    assert train(workdir, f"--fork={finished}", "--config.model.stack.depth=3") == 2
    assert "use the config of the run that saved it" in last_error(capsys)
    assert not workdir.exists()


def test_moments_of_experts_in_an_earlier_layout_start_at_zero(tmp_path, repository, capsys):
    tree = PRESETS["mixtral"].build("tiny")
    recipe = ConfigDict({"model": tree, "optimizer": {"name": "adafactor"}})
    tokenizer = tokenizers.load(repository / "tests" / "golden" / "tokenizer")
    exp = Experiment(experiment.parse(experiment.complete(recipe)), tokenizer)
    leaves = {path: jnp.ones(leaf.shape, leaf.dtype) for path, leaf in named_leaves(exp.state_like)}
    # The earlier layout stored these moments with the other matrices of all layers.
    earlier = {re.sub(r"(opt_state/.*)/2/(.*experts_)", r"\1/1/\2", path): leaf for path, leaf in leaves.items()}
    assert earlier.keys() != leaves.keys()
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(0, earlier, {})
    restored = workdirs._restore_state(Checkpointer(tmp_path), exp.state_like)
    assert "start at zero" in capsys.readouterr().err
    for path, leaf in named_leaves(restored):
        assert (leaf == (0 if path not in earlier else 1)).all(), path


def test_what_layers_keep_and_micro_batches_may_change_where_the_mesh_is_chosen(tmp_path):
    typed = lambda *words: experiment.parse(flags.configure(flags.load_recipe("gpt:tiny"), words)[0])
    before = typed("--config.mesh=auto", "--config.model.stack.remat=full", "--config.train.accumulate=2")
    (tmp_path / experiment.SAVED).write_text(json.dumps(experiment.as_json(before)))
    assert workdirs.changes(typed("--config.mesh=auto"), tmp_path) == []
    with pytest.raises(InputError, match=r"config\.model\.stack\.remat: 'full' -> 'none'"):
        workdirs.changes(typed(), tmp_path)
