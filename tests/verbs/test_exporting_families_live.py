"""transformers, if it is installed, loads exports of every other family and gives our logits, ids and text.

`pytest -m parity_live`, in an environment with torch and transformers beside lm_jax.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import workdirs
from commands import lm_jax

from lm_jax.data import tokenizers
from lm_jax.data.tokenizers import TokenizerConfig
from lm_jax.decode import prompting
from lm_jax.models.interface import Inputs
from lm_jax.train.checkpoint import Checkpointer
from lm_jax.verbs import exporting, runs

pytestmark = pytest.mark.parity_live
# Presets, each with the kind of tokenizer of its paper, or the nearest one, and its class in transformers.
FAMILIES = {
    "roberta": ("byte_bpe", "AutoModelForMaskedLM"),
    "albert": ("unigram", "AutoModelForPreTraining"),
    "distilbert": ("wordpiece", "AutoModelForMaskedLM"),
    "electra": ("wordpiece", "AutoModel"),
    "electra_generator": ("wordpiece", "AutoModelForMaskedLM"),
    "modernbert": ("byte_bpe", "AutoModelForMaskedLM"),
    "bart": ("byte_bpe", "AutoModelForSeq2SeqLM"),
    "marian": ("unigram", "AutoModelForSeq2SeqLM"),
    "pegasus": ("unigram", "AutoModelForSeq2SeqLM"),
    "mt5": ("unigram", "AutoModelForSeq2SeqLM"),
    "umt5": ("unigram", "AutoModelForSeq2SeqLM"),
}
SEQ2SEQ = tuple(name for name, (_, loader) in FAMILIES.items() if loader == "AutoModelForSeq2SeqLM")
LINES = ("The old weaver mended a clock at dawn", "The old", "No one knew why he did.")
PROMPTS = ("The old <extra_id_0> mended a <extra_id_1> at dawn", "<extra_id_0> knew")
MOST = 16
# Both compute in float32, but sum in different orders.
TOLERANCE = 1e-4


@pytest.fixture(scope="module", autouse=True)
def transformers():
    pytest.importorskip("torch", reason="needs torch, which is not installed")
    return pytest.importorskip("transformers", reason="needs transformers, which is not installed")


@pytest.fixture(scope="module")
def exported(repository, tmp_path_factory):
    """Returns the experiment, run directory and export directory of a preset; each preset is exported once."""
    text = (repository / "tests" / "golden" / "text.txt").read_text()
    trained, exports = {}, {}

    def export(preset):
        if preset not in exports:
            kind, folder = FAMILIES[preset][0], tmp_path_factory.mktemp(preset)
            if kind not in trained:
                trained[kind] = tokenizers.train(TokenizerConfig(kind=kind, vocab=600, sentinels=4), [text])
            exp = workdirs.draw(folder / "run", preset, trained[kind])
            assert lm_jax("export", f"--workdir={folder / 'run'}", f"--output={folder / 'exported'}") == 0
            exports[preset] = exp, folder / "run", folder / "exported"
        return exports[preset]

    return export


@pytest.mark.parametrize("preset", FAMILIES)
def test_transformers_loads_every_tensor_and_computes_our_logits(preset, exported, transformers):
    import torch

    exp, workdir, output = exported(preset)
    network, info = getattr(transformers, FAMILIES[preset][1]).from_pretrained(output, output_loading_info=True)
    assert type(network).__name__ in json.loads((output / "config.json").read_text())["architectures"]
    assert [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[kind]] == []
    encoded = transformers.AutoTokenizer.from_pretrained(output)(LINES, padding=True, return_tensors="pt")
    is_seq2seq = exp.config.model.kind == "encoder_decoder"
    extra, bare = {"decoder_input_ids": encoded["input_ids"]} if is_seq2seq else {}, FAMILIES[preset][1] == "AutoModel"
    with torch.no_grad():
        answer = network.eval()(**encoded, **extra)
    theirs = answer["last_hidden_state" if bare else "prediction_logits" if preset == "albert" else "logits"]
    params = runs.restore_params(Checkpointer(workdir / "checkpoints"), exp.params_like("model"))["model"]
    for row, mask, logits in zip(encoded["input_ids"], encoded["attention_mask"], theirs, strict=True):
        # Their rows are padded to the longest one; ours are computed alone.
        count = int(mask.sum())
        tokens = jnp.asarray(row[:count].numpy())[None]
        expected = _apply(exp, params, tokens, hidden=bare)
        np.testing.assert_allclose(logits[:count].numpy(), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("preset", FAMILIES)
def test_the_tokenizer_of_every_family_gives_our_ids(preset, exported, transformers):
    exp, _, output = exported(preset)
    theirs = transformers.AutoTokenizer.from_pretrained(output, split_special_tokens=True)
    ids = theirs([*exporting.TEXTS], add_special_tokens=False, verbose=False)["input_ids"]
    assert ids == [row.tolist() for row in exp.tokenizer.encode_batch(exporting.TEXTS)]


@pytest.mark.parametrize("preset", SEQ2SEQ)
def test_transformers_generates_our_greedy_text(preset, exported, transformers, capsys):
    exp, workdir, output = exported(preset)
    capsys.readouterr()
    words = (f"--prompt={prompt}" for prompt in PROMPTS)
    command = ("generate", f"--workdir={workdir}", *words, "--temperature=0", f"--max_tokens={MOST}", "--json")
    assert lm_jax(*command) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    network = transformers.AutoModelForSeq2SeqLM.from_pretrained(output).eval()
    theirs, ours = transformers.AutoTokenizer.from_pretrained(output), exp.tokenizer
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        start, *tokens = network.generate(**theirs(prompt, return_tensors="pt"), max_new_tokens=MOST)[0].tolist()
        assert start == ours.pad
        assert prompting.restored(ours, prompting.span_prompt(ours, prompt), tokens) == answer["text"]


def _apply(exp, params, tokens, *, hidden):
    """Returns our logits, or hidden states, for one row."""
    source = Inputs(tokens=tokens) if exp.config.model.kind == "encoder_decoder" else None
    with jax.default_matmul_precision("highest"):
        output = exp.product.module.apply({"params": params}, Inputs(tokens=tokens, source=source), logits=not hidden)
    return np.asarray(output.hidden if hidden else output.logits)[0]
