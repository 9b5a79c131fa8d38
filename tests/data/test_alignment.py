"""Words of a raw text are found in the tokens of the cleaned text, whatever cleaning and tokenizers do to them."""

import json

import numpy as np
import pytest
import sentencepiece

from lm_jax.data import alignment, tokenizers
from lm_jax.data.clean import chain
from lm_jax.data.clean import report as reports
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.sources import SourceConfig
from lm_jax.data.tokenizers import TokenizerConfig

FLOW = CleanConfig(steps=(*CleanConfig.steps, "flow"))


def cleaned(text, config=CleanConfig()):  # noqa: B008
    return chain.clean(text, config, reports.empty()) or ""


def found(words, config=CleanConfig(), text=None):  # noqa: B008
    text = cleaned(" ".join(words), config) if text is None else text
    return [text[start:stop] for start, stop in alignment.find_words(words, text, config)]


def test_words_that_cleaning_leaves_are_found():
    words = ["EU", "rejects", "中文", "🙂", "."]

    assert found(words) == found(words, FLOW) == words
    assert found(words, text="  EU\n\trejects 中文   🙂\n\n.") == words
    # A word of a list may hold spaces.
    assert found(["20 000", "New  York", "x"], FLOW) == ["20 000", "New York", "x"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a", "\ufeff", "b"], ["a", "", "b"]),
        (["\x01", "a", "\x07\x08", "\x7f", "b", "\ufeff"], ["", "a", "", "", "b", ""]),
        (["e\u0301te\u0301", "\u200d", "x"], ["été", "\u200d", "x"]),
        (["naÃ¯ve", "cafÃ©", "Ã©t\x01Ã©", "b"], ["naïve", "café", "été", "b"]),
        (["a\x00b", "c\x1fd", "e"], ["a b", "c d", "e"]),
        (["", "a", ""], ["", "a", ""]),
        (["\u3000", "好", " ", "的"], ["", "好", "", "的"]),
    ],
)
def test_a_word_that_cleaning_changes_or_removes_does_not_shift_the_others(words, expected):
    assert found(words) == expected


def test_words_are_found_by_common_characters_if_cleaning_depends_on_their_neighbours():
    # As if a step had removed markup over several words, and replaced one.
    assert found(["see", "<a", "href='x'>", "the", "page</a>", "now"], text="see the PAGE now") == [
        "see",
        "",
        "",
        "the",
        "PAGE",
        "now",
    ]
    assert found(["a", "b"], text="") == ["", ""]
    assert found([], text="x y") == []


def test_words_stay_in_order_whatever_the_text_is():
    rng = np.random.default_rng(0)
    for _ in range(50):
        words = ["".join(rng.choice([*"ab\u0301\x01 中"], rng.integers(0, 4))) for _ in range(rng.integers(0, 8))]
        text = "".join(rng.choice([*"abc 中\n"], rng.integers(0, 20)))
        for whole in (text, cleaned(" ".join(words))):
            borders = alignment.find_words(words, whole, CleanConfig()).reshape(-1)
            assert (np.diff(borders[1::2]) >= 0).all() and (borders[1::2] >= borders[::2]).all()
            assert not len(borders) or (borders.min() >= 0 and borders.max() <= len(whole))


def tagged(root, tokenizer, texts, tags, clean=CleanConfig()):  # noqa: B008
    """Returns the decoded tokens of each word of each text."""
    path = root / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    of = alignment.Text(root, SourceConfig(path=str(path)), clean, tokenizer)

    def bad(record, problem):
        raise AssertionError(problem)

    entries = [[(tag,) for tag in each] for each in tags]
    aligned = [*alignment.tags(entries, of, bad)]
    assert [[tag for _, _, tag in entry] for entry in aligned] == tags
    result = []
    for entry, document in zip(aligned, alignment.documents(of), strict=True):
        result.append([tokenizer.decode(document.tokens[first:last]).strip() for first, last, _ in entry])
    return result


TEXTS = ["Angela Merkel met  王毅 in Berlin .", "a\tb", ["New York", "\x07", "was", "big"], "x"]
TAGS = [[*"ABCDEFG"], [*"AB"], [*"ABCD"], ["A"]]
WORDS = [["Angela", "Merkel", "met", "王毅", "in", "Berlin", "."], ["a", "b"], ["New York", "", "was", "big"], ["x"]]


@pytest.mark.parametrize("kind", ["unigram", "bpe", "byte_bpe", "bytes", "characters"])
def test_every_word_gets_its_tokens(tmp_path, kind):
    lines = ["Angela Merkel met 王毅 in Berlin . New York was big x a b"] * 20
    tokenizer = tokenizers.train(TokenizerConfig(kind=kind), lines)

    assert tagged(tmp_path, tokenizer, TEXTS, TAGS) == WORDS


def test_words_of_a_wordpiece_tokenizer_are_found_though_it_changes_them(tmp_path):
    tokenizer = tokenizers.train(
        TokenizerConfig(kind="wordpiece"), ["Angela Merkel met wang in Berlin . New York was big x a b"] * 20
    )

    texts = tagged(tmp_path, tokenizer, [["Angela", "\u200d", "MERKEL", "é", "Berlin"], "a b"], [[*"ABCDE"], [*"AB"]])

    # The tokenizer has no token for the second word, and removes the accent of the fourth: not in its vocabulary.
    assert [texts[0][0], texts[0][1], texts[0][2], texts[0][4]] == ["angela", "", "merkel", "berlin"]
    assert texts[1] == ["a", "b"]


LOSSLESS = {
    "byte_fallback": True,
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "normalization_rule_name": "identity",
}


@pytest.mark.parametrize("options", [LOSSLESS, {}], ids=["lossless", "nfkc"])
def test_words_that_share_a_token_both_get_it(tmp_path, options):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["New York is big", "is it New York", "a b c d e f g"] * 20),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=320,
        split_by_whitespace=False,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    tokenizer = tokenizers.load(tmp_path / "spiece.model")
    assert tokenizer.lossless == bool(options)

    new, york, *_ = tagged(tmp_path, tokenizer, ["New York is big"], [[*"ABCD"]])[0]

    assert " " in new and new == york
