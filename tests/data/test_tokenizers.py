import random
import subprocess
import sys

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


@pytest.fixture(scope="module", params=["unigram", "bpe", "byte_bpe", "bytes", "characters"])
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
        pytest.skip("characters outside the alphabet are unknown")
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
    sizes = {"unigram": 600, "bpe": 600, "byte_bpe": 600, "bytes": 273}
    assert tokenizer.vocab_size == sizes.get(tokenizer.kind, tokenizer.vocab_size)
    assert tokenizer.ordinary == (7, tokenizer.vocab_size - 10)
    assert tokenizer.lossless == (tokenizer.kind != "characters")


def test_decoding_skips_specials_sentinels_and_ids_beyond_the_vocabulary(tokenizer):
    ids = tokenizer.encode("some text")
    skipped = [tokenizer.sep, tokenizer.mask, int(tokenizer.sentinels[0]), 10_000, -1, 0]

    assert tokenizer.decode([tokenizer.cls, *ids.tolist(), *skipped]) == "some text"
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
        assert tokenizer.lengths[ids].sum() == len(text.encode())


def test_starts_are_offsets_in_the_texts_joined_by_line_breaks(tokenizer):
    texts = ["", *TRICKY.values(), "", "", "last\n", ""]
    data = "\n".join(texts).encode()
    encoded = tokenizer.encode_with_starts(texts)

    assert [ids.tolist() for ids in encoded.split()] == [tokenizer.encode(text).tolist() for text in texts]
    borders = np.cumsum([0, *(len(text.encode()) + 1 for text in texts)])
    for number, (start, stop) in enumerate(zip(borders[:-1], borders[1:], strict=True)):
        first, last = np.cumsum([0, *encoded.counts])[number : number + 2]
        starts = encoded.starts[first:last]
        assert (np.diff(encoded.starts) >= 0).all() and ((starts >= start) & (starts < stop)).all()
        # Several tokens that spell one character may share an offset; any other token starts at its text.
        for token, offset in zip(encoded.tokens[first:last], starts, strict=True):
            if text := tokenizer.decode([int(token)]).strip():
                assert "\ufffd" in text or data[offset:].decode(errors="replace").lstrip().startswith(text)


def test_words_begin_at_spaces_and_at_chinese_characters(tokenizer):
    ids = tokenizer.encode("a 天 the")
    starts_word = tokenizer.starts_word[ids]
    pieces = [tokenizer.decode([int(token)]) for token in ids]

    assert all(starts for starts, piece in zip(starts_word, pieces, strict=True) if piece.startswith((" ", "天")))
    assert not any(starts for starts, piece in zip(starts_word, pieces, strict=True) if piece in ("a", "h", "he", "e"))
    assert starts_word.sum() >= 3


def test_a_batch_has_the_ids_of_its_texts(tokenizer):
    batch = tokenizer.encode_batch(list(TRICKY.values()))

    for ids, text in zip(batch, TRICKY.values(), strict=True):
        assert np.array_equal(ids, tokenizer.encode(text))
    assert tokenizer.encode("").shape == (0,)


def test_lone_surrogates_become_replacement_characters(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_unknown_characters_are_unk():
    tokenizer = tokenizers.train(TokenizerConfig(kind="characters", vocab=50), ["abcabc"])

    assert tokenizer.encode("abz").tolist() == [*tokenizer.encode("ab").tolist(), tokenizer.unk]
    assert tokenizer.decode(tokenizer.encode("abz")) == "ab\ufffd"
    assert tokenizer.encode_with_starts(["é好b", "é"]).starts.tolist() == [0, 2, 5, 7]


def test_an_alphabet_has_the_most_frequent_characters():
    tokenizer = tokenizers.train(TokenizerConfig(kind="characters", vocab=9), ["aaabbc\nd\n"])

    assert tokenizer.vocab_size == 9
    assert tokenizer.decode(tokenizer.encode("abcd")) == "ab\ufffd\ufffd"


def test_training_is_deterministic(golden, golden_tokenizer, corpus):
    again = tokenizers.train(TokenizerConfig(vocab=512, sentinels=16), [corpus])

    assert again.fingerprint == golden_tokenizer.fingerprint


def test_a_long_text_has_the_ids_of_its_lines(golden_tokenizer, corpus):
    text = (corpus * 3)[:100_000]
    ids = golden_tokenizer.encode(text)

    assert golden_tokenizer.decode(ids) == text
    assert np.array_equal(ids, np.concatenate([golden_tokenizer.encode(line) for line in text.splitlines(True)]))


@pytest.mark.parametrize("text", ["word " * 9, "a" * 50, "line\n" * 9, "  " * 30, " " * 9 + "x" * 30, "", "\n" * 40])
def test_parts_are_short_and_join_to_the_text(text):
    chunks = parts.split(text, 10)

    assert "".join(chunks) == text
    assert all(0 < len(part) <= 10 for part in chunks)


def test_sampling_takes_an_even_share_of_lines():
    text = "\n".join(f"line {number}" for number in range(10_000))

    chosen = list(parts.sample_lines([text], len(text) // 10, len(text)))

    assert 800 < len(chosen) < 1200
    assert chosen == list(parts.sample_lines([text], len(text) // 10, len(text)))
    assert list(parts.sample_lines([text], len(text), len(text))) == text.split("\n")


PRINT = r"""
import pathlib
from lm_jax.data import tokenizers
text = pathlib.Path({path!r}).read_text() + "na\u00efve caf\u00e9 \u4f60\u597d\n" * 9
for kind, vocab in (("wordpiece", 400), ("byte_bpe", 500)):
    print(tokenizers.train(tokenizers.TokenizerConfig(kind=kind, vocab=vocab, sentinels=4), [text]).fingerprint)
"""


def test_training_is_the_same_in_every_process(repository, golden):
    # The library orders pieces by a hash table, whose seed differs between processes.
    command = [sys.executable, "-c", PRINT.format(path=str(golden / "text.txt"))]
    run = lambda: subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
    outputs = [run() for _ in range(3)]

    assert len(outputs[0].split()) == 2 and len(set(outputs)) == 1


def test_wordpiece_normalises_text_as_bert_does(corpus):
    trained = {
        lower: tokenizers.train(
            TokenizerConfig(kind="wordpiece", vocab=500, sentinels=4, lowercase=lower),
            [corpus, "Naïve café, 你好世界\n" * 20],
        )
        for lower in (True, False)
    }
    text = "The  old\tweaver mended café clocks, 你好!"

    assert trained[True].vocab_size == trained[False].vocab_size == 500
    assert trained[True].decode(trained[True].encode(text)) == "the old weaver mended cafe clocks, 你好!"
    assert trained[False].decode(trained[False].encode(text)) == "The old weaver mended café clocks, 你好!"
    for tokenizer in trained.values():
        assert not tokenizer.lossless and tokenizer.decode(tokenizer.encode("😀")) == "�"
        again = tokenizer.encode(tokenizer.decode(tokenizer.encode(corpus[:2000])))
        assert np.array_equal(again, tokenizer.encode(corpus[:2000]))
        ids = tokenizer.encode(TRICKY["specials"])
        assert not tokenizer.special[ids[ids != tokenizer.unk]].any()
        names = [tokenizer.piece(index) for index in range(7)]
        assert names == list(tokenizers.SPECIALS) and tokenizer.sentinels.tolist() == [496, 497, 498, 499]
        words = tokenizer.encode("weavers")
        assert tokenizer.starts_word[words].tolist() == [True] + [False] * (len(words) - 1)


def test_bytes_per_id_of_a_lossy_tokenizer_add_up_to_the_corpus(corpus):
    tokenizer = tokenizers.train(TokenizerConfig(kind="wordpiece", vocab=500), [corpus])
    ids = tokenizer.encode(corpus)

    lengths = tokenizer.bytes_per_id(len(corpus.encode()), len(ids))

    assert lengths[ids].sum() == pytest.approx(len(corpus.encode()))
    assert lengths[tokenizer.eos] == lengths[tokenizer.pad] == 0


def test_the_error_for_too_large_a_vocabulary_states_the_largest_size(corpus):
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
        (TokenizerConfig(kind="wordpeice"), ["text"], "config.data.tokenizer.kind is 'wordpeice'.*wordpiece"),
        (TokenizerConfig(kind="wordpiece", vocab=10), ["some text"], r"vocab is 10, but .* take 1\d"),
        (TokenizerConfig(kind="wordpiece", vocab=8192), ["some text"], r"vocab is 8192.*at most \d+"),
        (TokenizerConfig(kind="wordpiece"), [" \n"], "no text"),
        (TokenizerConfig(kind="byte_bpe", vocab=200), ["some text"], "vocab is 200, but .* take 263"),
        (TokenizerConfig(kind="byte_bpe", vocab=8192), ["some text"], r"vocab is 8192.*at most 26\d"),
        (TokenizerConfig(kind="byte_bpe"), [], "no text"),
        (TokenizerConfig(path="/nowhere"), ["text"], "config.data.tokenizer.path: /nowhere"),
        (TokenizerConfig(sentinels=-1), ["text"], "config.data.tokenizer.sentinels is -1; expected .* at least 0"),
        (TokenizerConfig(vocab=0), ["text"], "config.data.tokenizer.vocab is 0; expected .* at least 1"),
        (TokenizerConfig(vocab_at_most=0), ["text"], "config.data.tokenizer.vocab_at_most is 0; expected"),
        (TokenizerConfig(sample_bytes=0), ["text"], "config.data.tokenizer.sample_bytes is 0; expected"),
        (TokenizerConfig(character_coverage=0.0), ["text"], "config.data.tokenizer.character_coverage is 0.0; exp"),
        (TokenizerConfig(character_coverage=0.5), ["text"], "character_coverage is 0.5; expected 0.98 to 1"),
        (TokenizerConfig(vocab=50), ["text"], r"vocab is 50, but .* bytes take 263; set config.data.tokenizer.vocab"),
        (TokenizerConfig(vocab_at_most=264, sentinels=10), ["text"], "tokenizer.vocab_at_most is 264, but .* take 273"),
        (TokenizerConfig(vocab_at_most=264), ["text"], r"vocab_at_most is 264, but .* take 2\d+; set .*vocab_at_most"),
        (TokenizerConfig(vocab_at_most=512), ["".join(map(chr, range(0x4E00, 0x5600)))], "Chinese, .*=chinese:gpt or"),
        (TokenizerConfig(kind="wordpiece", vocab_at_most=10), ["text"], "vocab_at_most is 10, but .* take 1"),
        (TokenizerConfig(kind="byte_bpe", vocab_at_most=99), ["text"], "vocab_at_most is 99, but .* take 263"),
        (TokenizerConfig(kind="characters", vocab_at_most=5), ["text"], "vocab_at_most is 5, but .* take 7"),
    ],
)
def test_errors_in_training_are_one_line(config, texts, message):
    with pytest.raises(InputError, match=message) as caught:
        tokenizers.train(config, texts)

    assert "\n" not in str(caught.value)


def test_a_damaged_tokenizer_is_refused(tokenizer, tmp_path):
    if tokenizer.kind == "bytes":
        pytest.skip("bytes have no file")
    tokenizer.save(tmp_path)
    content = bytearray((tmp_path / tokenizer.file).read_bytes())
    content[-5] ^= 1
    (tmp_path / tokenizer.file).write_bytes(bytes(content))

    with pytest.raises(InputError, match="damaged"):
        tokenizers.load(tmp_path)
    (tmp_path / tokenizer.file).unlink()
    with pytest.raises(InputError, match="incomplete"):
        tokenizers.load(tmp_path)


def test_a_tokenizer_saved_by_the_first_version_keeps_its_fingerprint(golden_tokenizer, golden, tmp_path):
    assert (golden / "tokenizer" / "pieces").exists()

    golden_tokenizer.save(tmp_path)

    assert tokenizers.load(tmp_path).fingerprint == golden_tokenizer.fingerprint == "4888607b9b2e9361466532f4c30426c5"


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
def test_sentences_start_after_final_punctuation_and_line_breaks(text, expected):
    data = text.encode()

    starts = sentences.starts(data).tolist()

    assert [data[a:b].decode() for a, b in zip(starts, [*starts[1:], len(data)], strict=True)] == expected
