"""Models of Chinese, trained on histories in modern Chinese: one column of a table of sentence pairs.

The default suite trains a small decoder on a part of the table. The `slow` test trains the recipes `chinese` on all
rows and checks the text that the decoder generates; docs/claims.md records the results.
"""

import json
import lzma
import unicodedata

import numpy as np
import pytest

from tests.baselines import assert_below_unigram
from tests.commands import lm_jax
from tests.commands import run as command
from tests.test_novels import compare_with_bigram


@pytest.fixture
def histories(shared_data):
    """Return the path of a table of sentences in classical and modern Chinese, in the order of the books."""
    return shared_data / "zh_classical_modern" / "pairs_dev.tsv.xz"


def test_models_of_chinese_fall_below_the_unigram_baseline(histories, tmp_path):
    part = tmp_path / "part.tsv"
    with lzma.open(histories, "rt", encoding="utf-8") as lines:
        part.write_text("".join(next(lines) for _ in range(6000)), encoding="utf-8")
    run = tmp_path / "run"
    flags = [
        f"--config.data.path={part}",
        "--config.data.field=modern",
        "--config.data.group=book",
        "--config.data.tokenizer.vocab=2560",
        "--config.data.tokenizer.character_coverage=0.98",
        f"--config.data.store={tmp_path / 'store'}",
        "--config.data.workers=1",
        "--config.train.steps=200",
        "--config.evaluate.every=0",
        "--config.evaluate.batches=30",
    ]

    assert lm_jax("train", "--config=gpt:tiny", f"--workdir={run}", *flags) == 0

    store = assert_below_unigram(run)
    # The store must find sentence borders at Chinese full stops.
    sentences = np.diff(store.sentence_starts)
    assert 10 < np.median(sentences) < 40


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["gpt", "bert"])
def test_chinese_recipes_fall_below_the_unigram_baseline_and_generate_chinese(recipe, histories, tmp_path, capsys):
    run = tmp_path / recipe
    flags = [
        f"--config=chinese:{recipe}",
        f"--config.data.path={histories}",
        "--config.data.field=modern",
        "--config.data.group=book",
        f"--config.data.store={tmp_path / 'store'}",
        f"--workdir={run}",
    ]
    assert command("train", *flags, timeout_s=3600).returncode == 0

    model, bigram, unigram, count = compare_with_bigram(run)
    prompt = "项羽" if recipe == "gpt" else "项羽率领军队[MASK]到河北。"
    generated = command(
        "generate", f"--workdir={run}", f"--prompt={prompt}", "--max_tokens=100", "--temperature=0.7", "--json"
    )

    with capsys.disabled():
        print(f"\n{recipe}: model {model:.4f}, bigram {bigram:.4f}, unigram {unigram:.4f} nats over {count:,} tokens")
        print(generated.stdout)
    assert model < unigram - 0.3
    if recipe == "gpt":
        text = json.loads(generated.stdout)["answers"][0]["text"]
        assert "\ufffd" not in text
        ideographs = [unicodedata.name(character, "").startswith("CJK") for character in text]
        assert np.mean(ideographs) > 0.7
