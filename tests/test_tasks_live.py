"""Recipes of tasks give the losses of transformers, step by step, from the same weights on the same rows.

`pytest -m parity_live`, in an environment with torch and transformers beside lm_jax, and with all-MiniLM-L6-v2
(tests/conftest.py).
"""

import numpy as np
import pytest
import reference_tasks as reference

from lm_jax import experiment
from lm_jax.train import metrics
from tests.commands import lm_jax, run

pytestmark = pytest.mark.parity_live


@pytest.fixture(scope="module", autouse=True)
def transformers():
    pytest.importorskip("torch", reason="needs torch, which is not installed")
    return pytest.importorskip("transformers", reason="needs transformers, which is not installed")


def tune(case, parent, path, folder, settings=()):
    """Runs `lm-jax train` with further settings; returns the loss of each step."""
    words = [
        f"--config={case.recipe}",
        f"--fork={parent}",
        f"--workdir={folder / 'run'}",
        f"--config.data.path={path}",
        f"--config.data.store={folder / 'store'}",
        f"--config.data.batch={case.batch}",
        f"--config.data.buckets={case.buckets}",
        f"--config.train.steps={case.steps}",
        "--config.evaluate.batches=1",
        "--config.log.every=1",
        "--config.log.writers=jsonl",
        *settings,
    ]
    result = run("train", *words, timeout_s=900)
    assert result.returncode == 0, result.stderr
    return [line["train/loss"] for line in metrics.read(folder / "run") if "train/loss" in line]


def drawn(workdir, steps):
    """Yields the batch of each step of a run, and the record and the window of each row."""
    exp = experiment.load(workdir)
    exp = experiment.prepare(exp.config, tokenizer=exp.tokenizer)
    plan, size = exp.feed.rows("train"), exp.config.data.batch
    for step, batch in zip(range(steps), exp.feed.batches(0), strict=False):
        filled = plan.filling(np.arange(step * size, (step + 1) * size), exp.config.seed)
        rows = np.array([index for *_, index in filled])
        records = plan.numbers[rows]
        yield batch, list(zip(records, rows - np.searchsorted(plan.numbers, records), strict=True))


def as_arguments(batch):
    """The features of a batch under the names that classes of transformers give to them."""
    arguments = {"input_ids": batch["tokens"], "token_type_ids": batch["types"], "attention_mask": batch["segments"]}
    if "context" in batch:
        return {**arguments, "start_positions": batch["answers"][:, 0], "end_positions": batch["answers"][:, 1]}
    return {**arguments, "labels": np.where(batch["weights"] > 0, batch["answers"], reference.IGNORED)}


def check_features(ours, theirs):
    """Asserts that a batch equals one of transformers, which may have less padding."""
    assert set(ours) == set(theirs)
    for name, array in theirs.items():
        if name == "labels" and array.dtype.kind == "f":
            array = array.astype(np.float32)
        if array.ndim > 1:
            padding = ours[name][..., array.shape[-1] :]
            assert (padding == (reference.IGNORED if name == "labels" else 0)).all()
        np.testing.assert_array_equal(ours[name][..., : array.shape[-1]] if array.ndim > 1 else ours[name], array)


@pytest.mark.parametrize("name", reference.CASES)
def test_a_recipe_has_the_losses_of_transformers(name, minilm, shared_data, tmp_path):
    case = reference.CASES[name]
    path, records = shared_data / case.path, case.read(shared_data / case.path)
    model, tokenizer = reference.build(name, minilm, tmp_path / "theirs")
    assert lm_jax("import", tmp_path / "theirs", f"--workdir={tmp_path / 'parent'}") == 0

    ours = tune(case, tmp_path / "parent", path, tmp_path)

    batches = []
    for batch, rows in drawn(tmp_path / "run", case.steps):
        batches.append([case.encode(tokenizer, records[record], window) for record, window in rows])
        check_features(as_arguments(batch), reference.collate(batches[-1]))
    theirs = reference.losses(model, case, batches)
    print(f"{name}: largest difference of {len(theirs)} losses {np.abs(np.subtract(ours, theirs)).max():.1e}")
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=case.tolerance)
