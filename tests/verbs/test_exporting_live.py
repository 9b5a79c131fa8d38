"""transformers, if it is installed, loads our exports and gives the same ids, the same text and the same end.

`pytest -m parity_live`, in an environment with torch and transformers beside lm_jax.
"""

import itertools
import json
import lzma

import numpy as np
import pytest
import workdirs
from commands import lm_jax

from lm_jax.data import tokenizers
from lm_jax.data.tokenizers import TokenizerConfig
from lm_jax.decode import prompting
from lm_jax.verbs import exporting

pytestmark = pytest.mark.parity_live
KINDS = ("unigram", "bpe", "wordpiece", "byte_bpe", "bytes", "characters")
# Families that can be exported, each with the kind of tokenizer of its paper, or the nearest one.
FAMILIES = {
    "gpt2": "byte_bpe",
    "llama": "bpe",
    "t5": "unigram",
    "bert": "wordpiece",
    "deberta": "unigram",
    "xlnet": "unigram",
}
PROMPTS = {
    "decoder": ("The old weaver", "", "  two  spaces\n▁ and 织工 é"),
    "encoder_decoder": ("The old <extra_id_0> mended a <extra_id_1> at dawn", "织工 <extra_id_0>"),
    "encoder": ("The old <mask> mended a <mask> at dawn", "<mask>"),
}
SOURCES = {
    "english_novels/novels_dev.jsonl.xz": 300,
    "zh_docs/d2l_zh.jsonl.xz": 200,
    "code/python.jsonl.xz": 200,
    "udhr/udhr.jsonl.xz": 100,
}


@pytest.fixture(scope="module", autouse=True)
def transformers():
    pytest.importorskip("torch", reason="needs torch, which is not installed")
    return pytest.importorskip("transformers", reason="needs transformers, which is not installed")


@pytest.fixture(scope="module")
def trained(repository):
    """Trained tokenizers by kind."""
    text = (repository / "tests" / "golden" / "text.txt").read_text()
    train = lambda kind: tokenizers.train(TokenizerConfig(kind=kind, vocab=600, sentinels=4), [text])
    return {kind: train(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def lines(shared_data):
    """1,000 lines: English, Chinese, code, many languages, emoji and control characters."""
    rng = np.random.default_rng(0)
    sampled = []
    for name, count in SOURCES.items():
        with lzma.open(shared_data / name, "rt", encoding="utf-8") as file:
            texts = [json.loads(line)["text"] for line in itertools.islice(file, 40)]
        candidates = [line for text in texts for line in text.split("\n") if line.strip()]
        sampled += [candidates[index] for index in rng.choice(len(candidates), count, replace=False)]
    parts = (
        *exporting.TEXTS[1:10],
        *("👩‍👩‍👧‍👦", "👍🏽", "🇩🇪🇯🇵", "❤️", "e\u0301", "▁", "\0", "\u200b", " ", "\t", "\r\n", "说", "word"),
    )
    return [*sampled, *("".join(rng.choice(parts, 8)) for _ in range(200))]


def exported(workdir, folder):
    output = folder / "exported"
    assert lm_jax("export", f"--workdir={workdir}", f"--output={output}") == 0
    return output


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_to_load_a_tokenizer_give_our_ids_and_our_text(kind, trained, lines, transformers, tmp_path):
    ours = trained[kind]
    workdirs.draw(tmp_path / "run", "gpt2", ours, stack__depth=1)
    output = exported(tmp_path / "run", tmp_path)
    expected = [ids.tolist() for ids in ours.encode_batch(lines)]
    for loader in (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast):
        theirs = loader.from_pretrained(output, split_special_tokens=True)
        actual = theirs(lines, verbose=False)["input_ids"]
        assert [line for line, ids, other in zip(lines, expected, actual, strict=True) if ids != other] == []
        assert [ids for ids in expected if ours.decode(ids) != theirs.decode(ids)] == []


@pytest.mark.parametrize(
    ("preset", "kind"), [*FAMILIES.items(), *(("gpt2", kind) for kind in KINDS if kind != "byte_bpe")]
)
def test_transformers_generates_what_we_generate(preset, kind, trained, transformers, tmp_path, capsys):
    ours = trained[kind]
    over = {"stack__depth": 1, "readout__tied": False} if preset == "gpt2" else {}
    exp = workdirs.draw(tmp_path / "run", preset, ours, **over)
    model, prompts = exp.config.model.kind, PROMPTS[exp.config.model.kind]
    if model == "encoder":
        answers = _ours(tmp_path / "run", prompts, capsys)
        output = exported(tmp_path / "run", tmp_path)
        filled = [_filled(transformers, output, prompt, ours) for prompt in prompts]
        assert filled == [[mask[0][0] for mask in answer["masks"]] for answer in answers]
        return
    output = exported(tmp_path / "run", tmp_path / "before")
    tokens = _generated(transformers, output, prompts[0], model, ours)
    # Among the generated tokens, the one whose first occurrence is latest becomes the end of a text.
    end = [*dict.fromkeys(tokens)][-1]
    workdirs.draw(tmp_path / "ended", preset, ours, ends=end, **over)
    answers = [_ours(tmp_path / "ended", [prompt], capsys)[0] for prompt in prompts]
    output = exported(tmp_path / "ended", tmp_path / "after")
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = _generated(transformers, output, prompt, model, ours)
        if model == "decoder":
            assert (ours.decode(tokens), tokens[-1] == ours.eos) == (answer["text"], answer["finished"])
        else:
            assert prompting.restored(ours, prompting.span_prompt(ours, prompt), tokens) == answer["text"]
    assert _generated(transformers, output, prompts[0], model, ours)[-1] == ours.eos


def test_prompts_of_different_lengths_share_a_batch(trained, transformers, tmp_path, capsys):
    ours, prompts = trained["unigram"], ("The", "The old weaver mended a clock before sunrise")
    workdirs.draw(tmp_path / "run", "gpt2", ours, stack__depth=1)
    answers = _ours(tmp_path / "run", prompts, capsys)
    output = exported(tmp_path / "run", tmp_path)
    encoded = transformers.AutoTokenizer.from_pretrained(output)([*prompts], padding=True, return_tensors="pt")
    network = transformers.AutoModelForCausalLM.from_pretrained(output).eval()
    rows = network.generate(**encoded)[:, encoded["input_ids"].shape[1] :].tolist()
    assert [ours.decode(tokens) for tokens in rows] == [answer["text"] for answer in answers]


def _ours(workdir, prompts, capsys):
    capsys.readouterr()
    words = (f"--prompt={prompt}" for prompt in prompts)
    assert lm_jax("generate", f"--workdir={workdir}", *words, "--temperature=0", "--json") == 0
    return json.loads(capsys.readouterr().out)["answers"]


def _generated(transformers, output, prompt, model, ours):
    """Returns the ids that transformers generates after a prompt, from the exported directory alone."""
    auto = transformers.AutoModelForCausalLM if model == "decoder" else transformers.AutoModelForSeq2SeqLM
    network = auto.from_pretrained(output).eval()
    encoded = transformers.AutoTokenizer.from_pretrained(output)(prompt, return_tensors="pt")
    start = encoded["input_ids"].shape[1] if model == "decoder" else 1
    if model == "decoder" and not prompt:
        encoded, start = {}, 1
    tokens = network.generate(**encoded)[0].tolist()
    if start == 1:
        assert tokens[0] == (ours.eos if model == "decoder" else ours.pad)
    return tokens[start:]


def _filled(transformers, output, prompt, ours):
    """Returns the most likely allowed piece for every mask."""
    import torch

    (name,) = json.loads((output / "config.json").read_text())["architectures"]
    network = getattr(transformers, name).from_pretrained(output).eval()
    theirs = transformers.AutoTokenizer.from_pretrained(output)
    encoded = theirs(prompt.replace("<mask>", theirs.mask_token), return_tensors="pt")
    row = encoded["input_ids"][0]
    assert row.tolist() == prompting.masked_prompt(ours, prompt).tolist()
    with torch.no_grad():
        logits = network(**encoded)[0][0]
    logits[:, list(prompting.unwritable(ours, logits.shape[-1]))] = -np.inf
    return [ours.piece(int(token)) for token in logits[row == theirs.mask_token_id].argmax(-1)]
