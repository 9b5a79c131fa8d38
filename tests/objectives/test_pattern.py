"""Patterns and verbalisers: rows, the loss of a batch, and what is refused."""

import dataclasses

import laws
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from lm_jax import experiment
from lm_jax.core.config import InputError, Tree
from lm_jax.data import tokenizers
from lm_jax.models.model import build_model
from lm_jax.models.presets import bert
from lm_jax.objectives.base import Part
from lm_jax.objectives.pattern import Pattern, PatternConfig
from lm_jax.verbs import tasks

LENGTH = 12
TOKENIZER = tokenizers.train(tokenizers.TokenizerConfig(kind="characters"), ["abcxyz :.!"])
VOCABULARY = dataclasses.replace(tiny.VOCABULARY, tokenizer=TOKENIZER, labels=Tree(label=("a", "b", "c")))
ONE, TWO = ("a=x", "b=y", "c=z"), ("a=x", "b=yz", "c=zy")


def pattern(template="{text}: {mask}", words=TWO, kind="encoder", vocabulary=VOCABULARY, length=LENGTH):
    return Pattern(PatternConfig(template=template, words=words), vocabulary, length, kind)


def row(objective, text, label=0):
    return objective.features({"text": np.array(text), "label": label}, np.random.default_rng(0))


def pieces(tokens):
    names = {0: "_", 4: "[", 5: "]", 6: "?"}
    return "".join(names.get(token, TOKENIZER.texts[token].decode()) for token in tokens.tolist())


def test_a_row_has_a_mask_for_each_token_of_the_longest_word():
    text = TOKENIZER.encode("abc")
    features = row(pattern("{text}: {mask}."), text)
    assert pieces(features["tokens"]) == "[abc: ??.]__" and features["positions"].tolist() == [6, 7]
    features = row(pattern("{mask}! {text}", ONE), text)
    assert pieces(features["tokens"]) == "[?! abc]____" and features["positions"].tolist() == [1]


def test_a_decoder_reads_each_word_without_its_last_token():
    text = TOKENIZER.encode("abc")
    features = row(pattern(kind="decoder"), text)
    assert [pieces(tokens) for tokens in features["tokens"]] == ["abc: _______", "abc: y______", "abc: z______"]
    assert features["positions"].tolist() == [4, 5]
    # Words of one token share a row.
    assert pieces(row(pattern(words=ONE, kind="decoder"), text)["tokens"]) == "abc: _______"


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("words", [ONE, TWO])
def test_the_length_of_a_row_is_known_before_it_is_read(kind, words):
    objective = pattern(words=words, kind=kind)
    sizes = np.arange(1, 15)
    read = [row(objective, laws.text(size))["segments"].sum(-1).max() for size in sizes]
    assert objective.lengths({"text": sizes}).tolist() == read and max(read) == LENGTH


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_long_text_is_cut_and_the_pattern_is_not(kind):
    objective = pattern("a: {text}: {mask}" + "." * (kind == "encoder"), kind=kind)
    features = row(objective, TOKENIZER.encode("bc" * 9))
    tokens = features["tokens"].reshape(-1, LENGTH)
    expected = "[a: bc: ??.]" if kind == "encoder" else "a: bcbcbc: "
    assert [pieces(each)[: len(expected)] for each in tokens] == [expected] * len(tokens)
    assert features["segments"].sum(-1).max() <= LENGTH


def test_the_longer_of_two_texts_is_cut():
    objective = pattern("{text}. {pair}: {mask}")
    texts = {"text": TOKENIZER.encode("abcabc"), "pair": TOKENIZER.encode("z")}
    features = objective.features({**texts, "label": 0}, np.random.default_rng(0))
    assert pieces(features["tokens"]) == "[abc. z: ??]"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("encoder", TWO),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("encoder", ONE), ("decoder", ONE)]),
        pytest.param("decoder", TWO, marks=pytest.mark.slow),
    ],
)
def test_the_loss_is_the_cross_entropy_of_words_alone(kind, words):
    objective = pattern(words=words, kind=kind)
    over = {**tiny.STILL, "embed.max_length": LENGTH}
    config = tiny.tasked(objective, tiny.config("bert" if kind == "encoder" else "gpt2", over=over))
    rows = [row(objective, laws.text(size), number % 3) for number, size in enumerate((2, 9, 4))]
    batch = tiny.stacked(rows)
    model = build_model(config, VOCABULARY.size)
    sequences = batch["tokens"].reshape(-1, LENGTH)

    def run(params, batch):
        bound = model.bind(params)
        loss = objective.loss({"model": bound}, Part(batch=batch, weights=objective.weights(batch)))
        return loss.total, bound(objective.inputs(batch), logits=True).logits

    loss, logits = tiny.run_once(run, tiny.random_params(model.shapes), batch)

    wide = np.asarray(logits, np.float64)
    log_p = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    log_p = log_p.reshape(len(rows), -1, LENGTH, VOCABULARY.size)
    losses = []
    for number, answer in enumerate((0, 1, 2)):
        scores = []
        for label, entry in enumerate(words):
            ids, read = TOKENIZER.encode(entry[2:]), log_p[number, label % log_p.shape[1]]
            scores.append(sum(read[at, token] for at, token in zip(rows[number]["positions"], ids, strict=False)))
        losses.append(np.log(np.exp(scores).sum()) - scores[answer])
    assert len(sequences) == (9 if kind == "decoder" and words == TWO else 3)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)


def test_words_keep_the_space_before_them(repository):
    tokenizer = tokenizers.load(repository / "tests" / "golden" / "tokenizer")
    assert tokenizer.carries_space
    vocabulary = dataclasses.replace(VOCABULARY, size=tokenizer.vocab_size, tokenizer=tokenizer)
    objective = pattern(
        "So: {text} It was {mask}.", ("a=good", "b=the sea", "c=a star"), vocabulary=vocabulary, length=64
    )
    features = row(objective, tokenizer.encode("Rain."))
    assert tokenizer.decode(features["tokens"]) == "So: Rain. It was."
    texts = [tokenizer.decode(ids[ids > 0]) for ids in objective._targets[0]]
    assert texts == [" good", " the sea", " a star"]


REFUSED = {
    "no mask": (dict(template="{text}"), r"template is '\{text\}'; expected one \{mask\}"),
    "two masks": (dict(template="{mask} {text} {mask}"), r"expected one \{mask\}"),
    "no text": (dict(template="it is {mask}"), "and the name of a text column"),
    "a brace": (dict(template="{text} {mask"), "template is '.*'; expected text with the names of its places"),
    "no word": (dict(words=("a=x", "b=y")), "words has no word for the label 'c'; add c=WORD"),
    "no label": (dict(words=("a=x", "b=y", "z")), "expected LABEL=WORD for each label"),
    "twice": (dict(words=("a=x", "a=y", "b=z")), "expected LABEL=WORD for each label"),
    "unknown": (dict(words=("a=x", "b=y", "c=q")), "words has 'q', which the tokenizer cannot write"),
    "unknown pattern": (dict(template="q {text} {mask}"), "template has .* which the tokenizer cannot write"),
    "the same": (dict(words=("a=x", "b=y", "c=x")), "words of the labels 'a' and 'c' have the same tokens"),
    "a beginning": (dict(words=("a=x", "b=y", "c=xy")), "labels 'a' and 'c' begin with the same tokens"),
    "too short": (dict(length=6), "config.data.length 6 leaves 0 tokens for 1 text beside the pattern"),
    "text after": (dict(template="{text} {mask}.", kind="decoder"), r"a decoder predicts what follows a text; end it"),
    "no special token": (
        dict(vocabulary=dataclasses.replace(VOCABULARY, mask=None)),
        "'pattern' needs the special tokens mask",
    ),
    "no tokenizer": (dict(vocabulary=dataclasses.replace(VOCABULARY, tokenizer=None)), "there is no tokenizer"),
    "one label": (dict(vocabulary=dataclasses.replace(VOCABULARY, labels=Tree(label=("a",)))), "needs at least 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_patterns_and_words_that_cannot_be_are_refused(name):
    settings, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as error:
        pattern(**settings)
    assert "\n" not in str(error.value)


def test_models_without_a_language_models_head_are_refused():
    bare = tiny.config("bert", over={"readout.transform": "", "readout.bias": False})
    with pytest.raises(InputError, match="no masked-language-model head"):
        pattern().check({"model": bare})
    with pytest.raises(InputError, match="predicts from a query stream"):
        pattern().check({"model": tiny.config("xlnet", over={"readout.bias": True})})
    pattern().check({"model": tiny.config("bert")})
    pattern(kind="decoder").check({"model": tiny.config("gpt2")})
    assert "encoder_decoder" not in Pattern.roles["model"].kinds


def test_a_run_is_exported_as_the_class_of_its_model(repository):
    tokenizer = tokenizers.load(repository / "tests" / "golden" / "tokenizer")
    settings = {"model": bert.bert("tiny"), "objective": {"name": "pattern"}, "data": {"length": 64}}
    config = experiment.parse(experiment.complete(ConfigDict(settings)))
    exp = experiment.Experiment(config, tokenizer, saved_labels=Tree(label=("good", "bad")))
    assert tasks.suffix_of(exp) == "" and "task" not in exp.models.shapes["model"]
