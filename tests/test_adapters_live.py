"""Adapters give the losses of PEFT, step by step, and its directories load here as ours load there.

`pytest -m parity_live`, in an environment with torch, transformers and peft beside lm_jax, and with all-MiniLM-L6-v2
(tests/conftest.py).
"""

import json

import numpy as np
import pytest
import reference_tasks as reference
import test_tasks_live as live

from tests.commands import lm_jax

pytestmark = pytest.mark.parity_live
METHODS = {
    "lora": ["--config.adapt.targets=query,value"],
    "rslora": ["--config.adapt.targets=attention,feedforward", "--config.adapt.rank=4"],
    "dora": ["--config.adapt.targets=query,feedforward/out"],
    "ia3": [],
}


@pytest.fixture(scope="module", autouse=True)
def peft():
    for name in ("torch", "transformers"):
        pytest.importorskip(name, reason=f"needs {name}, which is not installed")
    return pytest.importorskip("peft", reason="needs peft, which is not installed")


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_has_the_losses_of_peft_and_is_exchanged(method, peft, minilm, shared_data, tmp_path):
    case = reference.CASES["sst2"]._replace(rate=1e-3)
    path, records = shared_data / case.path, case.read(shared_data / case.path)
    model, tokenizer = reference.build("sst2", minilm, tmp_path / "theirs")
    assert lm_jax("import", tmp_path / "theirs", f"--workdir={tmp_path / 'parent'}") == 0
    settings = [f"--config.adapt.method={method}", *METHODS[method], f"--config.optimizer.learning_rate={case.rate}"]

    # What a run begins with, as PEFT reads it.
    begun = case._replace(steps=1)
    live.tune(
        begun, tmp_path / "parent", path, tmp_path / "begun", settings[:-1] + ["--config.optimizer.learning_rate=0"]
    )
    adapter = tmp_path / "adapter"
    assert lm_jax("export", f"--workdir={tmp_path / 'begun/run'}", "--format=peft", f"--output={adapter}") == 0
    model = peft.PeftModel.from_pretrained(model, adapter, is_trainable=True)
    ours = live.tune(case, tmp_path / "parent", path, tmp_path, settings)
    batches = [
        [case.encode(tokenizer, records[record], window) for record, window in rows]
        for _, rows in live.drawn(tmp_path / "run", case.steps)
    ]
    theirs = reference.losses(model, case, batches)
    print(f"{method}: largest difference of {len(theirs)} losses {np.abs(np.subtract(ours, theirs)).max():.1e}")
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)

    # What PEFT saves is read here, and answers alike.
    model.eval().save_pretrained(tmp_path / "saved")
    rows, output = tmp_path / "rows.tsv", tmp_path / "answers.jsonl"
    rows.write_text("".join(f"{text}\t{label}\n" for text, label in records[:50]))
    words = [f"--workdir={tmp_path / 'parent'}", f"--adapter={tmp_path / 'saved'}", f"--input={rows}"]
    columns = ["--config.data.columns.text.field=0", "--config.data.columns.label.field=1", "--config.data.format=tsv"]
    assert lm_jax("predict", *words, *columns, f"--output={output}") == 0
    answers = [json.loads(line)["scores"]["1"] for line in output.read_text().splitlines()]
    np.testing.assert_allclose(answers, reference.scores(model, tokenizer, records[:50]), atol=1e-5)
