"""Original entries are read as the files have them, and tokens are found in them whatever cleaning changes."""

import json

import numpy as np
import pytest

from lm_jax.core.config import InputError, Tree
from lm_jax.data import corpora, originals, tokenizers
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.config import DataConfig
from lm_jax.data.originals import align, locate
from lm_jax.data.tokenizers import TokenizerConfig

# An accent of its own, full-width letters, a byte order mark, emoji of several characters, a word that grows in lower
# case, a fraction that some tokenizers spell out, Windows line breaks, and spaces that cleaning drops.
TEXT = "\ufeff  Die Cafe\u0301s in İzmir \r\nhaben 6½ Sterne 👩‍👩‍👧 (NFL)。\r\n\r\n\r\n\r\n\r\n他在北京，ＡＢＣ 🎉!  "
WORDS = ["Die", "Cafe\u0301s", "İzmir", "haben", "6½", "👩‍👩‍👧", "NFL", "他在北京", "ＡＢＣ", "🎉", "haben 6½ Sterne"]


def trained(kind):
    settings = {"wordpiece": {"vocab": 90}, "byte_bpe": {"vocab": 300}, "unigram": {"vocab": 306}}.get(kind, {})
    return tokenizers.train(TokenizerConfig(kind=kind, **settings), [TEXT, "Die Katze haben in Sterne 他在北京"] * 3)


@pytest.mark.parametrize("kind", ["bytes", "characters", "wordpiece", "byte_bpe", "unigram"])
def test_tokens_are_found_in_the_original_text(kind):
    tokenizer = trained(kind)
    located = locate(TEXT, CleanConfig(), tokenizer)

    assert len(located.starts) == len(located.stops) > 20
    assert (np.diff(located.starts) >= 0).all() and (np.diff(located.stops) >= 0).all()
    for word in WORDS:
        start = TEXT.index(word)
        stop = start + len(word)
        # The tokens that overlap with the word, and no others.
        first = int(np.searchsorted(located.stops, start, "right"))
        last = int(np.searchsorted(located.starts, stop, "left"))
        begin, end = located.span(first, last)
        assert word in TEXT[begin:end], word
        if kind in ("bytes", "characters", "wordpiece"):
            assert TEXT[begin:end] == word
    assert located.span(0, len(located.starts)) == (len("\ufeff  "), len(TEXT) - 2)


def test_a_lower_case_word_is_found_in_its_original_case(golden):
    tokenizer = trained("wordpiece")
    located = locate("ÉCOLE Été", CleanConfig(), tokenizer)
    assert located.text[slice(*located.span(0, len(located.starts)))] == "ÉCOLE Été"
    assert tokenizer.decode(tokenizer.encode("ÉTÉ")) == tokenizer.decode(tokenizer.encode("ete"))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("  abc\n", "abc"),
        ("a\r\nb\r\n", "a\nb"),
        ("cafe\u0301 \x07noir", "café noir"),
        ("a  b\t c", "a b c"),
        ("Ã©tÃ©", "été"),
        ("abc", ""),
    ],
)
def test_characters_of_cleaned_text_are_aligned_with_the_raw_text(raw, text):
    starts, stops = align(raw, text)
    assert len(starts) == len(stops) == len(text)
    assert (starts <= stops).all() and (np.diff(starts) >= 0).all() and (np.diff(stops) >= 0).all()
    for number, character in enumerate(text):
        part = raw[starts[number] : stops[number]]
        assert part == character or character in "éÃ " or character.isspace(), (number, part)


def test_long_texts_are_aligned_word_by_word(monkeypatch):
    raw = "\ufeff " + " ".join(f"the word{number} e\u0301te\u0301\r\n" for number in range(4_000))
    text = raw.replace("\r\n", "\n").replace("\ufeff", "").replace("e\u0301", "é")
    starts, stops = align(raw, text)
    same = [
        raw[start:stop] in (character, "e\u0301") for start, stop, character in zip(starts, stops, text, strict=True)
    ]
    assert all(good or character.isspace() for good, character in zip(same, text, strict=True))
    # Stretches that are too long to compare are found as a whole.
    monkeypatch.setattr(originals, "_LARGE", 4)
    starts, stops = align("a bcd e", "a xyz e")
    assert starts.tolist() == [0, 1, 2, 2, 2, 5, 6] and stops.tolist() == [1, 2, 5, 5, 5, 6, 7]


def test_original_entries_are_copied_once(tmp_path):
    records = [
        {"text": "\n Ein Cafe\u0301 \ud83d\ude00", "spans": [[2, 5, "x"]], "label": "a"},
        {"text": "", "spans": [], "label": "b"},
        {"text": "b\u2028", "spans": [], "label": "b"},
    ]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    columns = Tree(text=Tree(), spans=Tree(kind="spans"), label=Tree(kind="label"))
    data = DataConfig(
        path=str(path), columns=columns, tokenizer=TokenizerConfig(kind="bytes"), store=str(tmp_path / "s"), workers=1
    )
    corpus = corpora.prepare(data)
    assert not (tmp_path / "s" / "originals").exists()

    assert [corpus.originals["text"][index] for index in (2, 0, 1)] == ["b\u2028", "\n Ein Cafe\u0301 😀", ""]
    assert [corpus.originals["spans"][index] for index in range(3)] == [[[2, 5, "x"]], [], []]
    assert corpus.originals["label"][1] == [["b"]]
    again = corpora.prepare(data)
    path.unlink()
    assert corpus.originals["text"][0].startswith("\n Ein")
    located = corpus.located("text", 0)
    assert located.text[slice(*located.span(0, 4))] == "Ein"
    with pytest.raises(InputError, match="there is no file .*r.jsonl"):
        _ = again.originals["label"][0]
