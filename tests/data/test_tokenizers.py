import random

import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.data import parts, sentences, tokenizers
from lm_jax.data.tokenizers import TokenizerConfig

TRICKY = {
    "english": "Before sunrise, the old weaver mended a clock.  It took 3,141 days -- no more!",
    "chinese": "你好，世界。今天天气很好！我们去公园散步吧？「好的。」",
    "code": "def f(x):\n\tif x:\n\t\treturn {\n            'a':  1,\n        }\n\n\n# end  \n",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 ☕️ 🇨🇭 e\u0301 \u200d",
    "specials": "[PAD][UNK] [MASK] [CLS]<extra_id_0> <0x0A> <s></s> [EOS]",
    "spaces": "  leading, trailing  \n\n  and \u00a0 \u3000 \u2003 others\t\t \r\n",
    "sentencepiece's own marks": "▁ a▁b ▁▁ \u2585 \u2047  \ufffd ▁",
    "controls": "a\x00b\x01\x7f\x85",
    "one": "x",
    "newline": "\n",
    "right to left": "שלום עולם مرحبا بالعالم",
}


@pytest.fixture(scope="module")
def corpus(golden):
    return (golden / "text.txt").read_text()


@pytest.fixture(scope="module", params=["unigram", "bpe", "bytes", "characters"])
def tokenizer(request, corpus):
    config = TokenizerConfig(kind=request.param, vocab=600, sentinels=10)
    texts = [corpus[:20_000], *TRICKY.values()] if request.param == "characters" else [corpus[:20_000]]
    return tokenizers.train(config, texts)


@pytest.mark.parametrize("name", TRICKY)
def test_decoding_gives_back_the_text(tokenizer, name):
    ids = tokenizer.encode(TRICKY[name])

    assert tokenizer.decode(ids) == TRICKY[name]
    assert ids.dtype == np.int32


def test_decoding_gives_back_random_unicode(tokenizer):
    if tokenizer.kind == "characters":
        pytest.skip("an alphabet knows its own characters only")
    rng = random.Random(0)
    for _ in range(50):
        points = [rng.choice([rng.randrange(0x20, 0x7F), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])
                  for _ in range(40)]  # fmt: skip
        text = "".join(map(chr, points))
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_ids_never_come_from_text(tokenizer):
    ids = tokenizer.encode(TRICKY["specials"] + " ".join(tokenizer.piece(int(token)) for token in tokenizer.sentinels))

    assert ids.min() >= len(tokenizers.SPECIALS)
    assert not np.isin(ids, tokenizer.sentinels).any()


def test_the_layout_is_specials_then_pieces_then_sentinels(tokenizer):
    names = [tokenizer.piece(index) for index in range(7)]

    assert names == ["[PAD]", "[UNK]", "[BOS]", "[EOS]", "[CLS]", "[SEP]", "[MASK]"]
    special = [getattr(tokenizer, name) for name in ("pad", "unk", "bos", "eos", "cls", "sep", "mask")]
    assert special == list(range(7))
    assert tokenizer.sentinels.tolist() == list(range(tokenizer.vocab_size - 10, tokenizer.vocab_size))
    assert tokenizer.piece(tokenizer.vocab_size - 10) == "<extra_id_0>"
    assert tokenizer.vocab_size == {"unigram": 600, "bpe": 600, "bytes": 273}.get(tokenizer.kind, tokenizer.vocab_size)


def test_decoding_skips_specials_sentinels_and_ids_beyond_the_vocabulary(tokenizer):
    ids = tokenizer.encode("some text")
    dressed = [tokenizer.cls, *ids.tolist(), tokenizer.sep, tokenizer.mask, int(tokenizer.sentinels[0]), 10_000, -1, 0]

    assert tokenizer.decode(dressed) == "some text"
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([tokenizer.unk]) == "\ufffd"


def test_a_saved_tokenizer_is_the_same_when_loaded(tokenizer, tmp_path):
    tokenizer.save(tmp_path)

    loaded = tokenizers.load(tmp_path)

    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.vocab_size == tokenizer.vocab_size
    assert np.array_equal(loaded.encode(TRICKY["code"]), tokenizer.encode(TRICKY["code"]))


def test_byte_lengths_add_up_to_the_text(tokenizer):
    for text in TRICKY.values():
        ids = tokenizer.encode(text)
        assert tokenizer.byte_lengths(ids).sum() == len(text.encode())
        lengths = np.cumsum(tokenizer.byte_lengths(ids)) - tokenizer.byte_lengths(ids)
        assert np.array_equal(tokenizer.byte_offsets(text.encode(), ids), lengths)


def test_batches_are_single_texts(tokenizer):
    together = tokenizer.encode_batch(list(TRICKY.values()))

    for ids, text in zip(together, TRICKY.values(), strict=True):
        assert np.array_equal(ids, tokenizer.encode(text))
    assert tokenizer.encode("").shape == (0,)


def test_lone_surrogates_become_replacement_characters(tokenizer):
    if tokenizer.kind == "characters":
        assert tokenizer.decode(tokenizer.encode("a\ud800b")) in ("a\ufffdb",)
    else:
        assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_unknown_characters_are_unk():
    tokenizer = tokenizers.train(TokenizerConfig(kind="characters", vocab=50), ["abcabc"])

    assert tokenizer.encode("abz").tolist() == [*tokenizer.encode("ab").tolist(), tokenizer.unk]
    assert tokenizer.decode(tokenizer.encode("abz")) == "ab\ufffd"
    assert tokenizer.byte_offsets("é好b".encode(), tokenizer.encode("é好b")).tolist() == [0, 2, 5]


def test_characters_keep_the_frequent_ones():
    tokenizer = tokenizers.train(TokenizerConfig(kind="characters", vocab=9), ["aaabbc\nd\n"])

    assert tokenizer.vocab_size == 9
    assert tokenizer.decode(tokenizer.encode("abcd")) == "ab\ufffd\ufffd"


def test_training_is_deterministic(golden, golden_tokenizer, corpus):
    again = tokenizers.train(TokenizerConfig(vocab=512, sentinels=16), [corpus])

    assert again.fingerprint == golden_tokenizer.fingerprint


def test_long_texts_are_encoded_as_their_parts(golden_tokenizer, corpus):
    text = (corpus * 3)[:100_000]

    ids = golden_tokenizer.encode(text)

    assert golden_tokenizer.decode(ids) == text
    assert np.array_equal(ids, np.concatenate([golden_tokenizer.encode(line) for line in text.splitlines(True)]))


@pytest.mark.parametrize("text", ["word " * 9, "a" * 50, "line\n" * 9, "  " * 30, " " * 9 + "x" * 30, "", "\n" * 40])
def test_parts_are_short_and_make_up_the_text(text):
    cut = parts.parts(text, 10)

    assert "".join(cut) == text
    assert all(0 < len(part) <= 10 for part in cut)


def test_sampling_takes_an_even_share_of_lines():
    text = "\n".join(f"line {number}" for number in range(10_000))

    chosen = list(parts.sampled([text], len(text) // 10, len(text)))

    assert 800 < len(chosen) < 1200
    assert chosen == list(parts.sampled([text], len(text) // 10, len(text)))
    assert list(parts.sampled([text], len(text), len(text))) == text.split("\n")


def test_a_vocabulary_larger_than_the_corpus_allows_says_the_most(corpus):
    with pytest.raises(InputError, match=r"config\.data\.tokenizer\.vocab is 60000.*at most \d+") as caught:
        tokenizers.train(TokenizerConfig(vocab=60_000, sentinels=10), [corpus])
    most = int(str(caught.value).split("at most ")[1].split(";")[0])

    assert "\n" not in str(caught.value)
    assert tokenizers.train(TokenizerConfig(vocab=most, sentinels=10), [corpus]).vocab_size == most


@pytest.mark.parametrize(
    ("config", "texts", "message"),
    [
        (TokenizerConfig(vocab=100), ["some text"], r"vocab is 100, but .* take \d+"),
        (TokenizerConfig(vocab=5, kind="characters"), ["some text"], "vocab is 5"),
        (TokenizerConfig(), [], "no text"),
        (TokenizerConfig(kind="characters"), ["", "\n"], "no text"),
        (TokenizerConfig(kind="wordpiece"), ["text"], "config.data.tokenizer.kind is 'wordpiece'.*unigram"),
        (TokenizerConfig(path="/nowhere"), ["text"], "config.data.tokenizer.path: /nowhere"),
        (TokenizerConfig(sentinels=-1), ["text"], "config.data.tokenizer.sentinels"),
    ],
)
def test_what_cannot_work_is_one_line(config, texts, message):
    with pytest.raises(InputError, match=message) as caught:
        tokenizers.train(config, texts)

    assert "\n" not in str(caught.value)


def test_a_damaged_tokenizer_is_refused(golden_tokenizer, tmp_path):
    golden_tokenizer.save(tmp_path)
    content = bytearray((tmp_path / "pieces").read_bytes())
    content[-5] ^= 1
    (tmp_path / "pieces").write_bytes(bytes(content))

    with pytest.raises(InputError, match="damaged"):
        tokenizers.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", " Two!", " Three?"]),
        ("He said “no.” Then left. 3.14 is pi.", ["He said “no.”", " Then left. 3.14 is pi."]),
        ("A line\n\nanother\nlast\n", ["A line\n\n", "another\n", "last\n"]),
        ("他说：“好。”然后走了。真的吗？！不。", ["他说：“好。”", "然后走了。", "真的吗？！", "不。"]),
        ("好。\n不。", ["好。\n", "不。"]),
        ("e.g. this", ["e.g. this"]),
        ("", [""]),
    ],
)
def test_sentences_start_where_a_reader_would_say(text, expected):
    data = text.encode()

    starts = sentences.starts(data).tolist()

    assert [data[a:b].decode() for a, b in zip(starts, [*starts[1:], len(data)], strict=True)] == expected
