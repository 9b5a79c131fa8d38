import sys

import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.data import tokenizers, words
from lm_jax.data.tokenizers.base import begin_words

KEY = "config.objective.masked.choose.words"
TEXT = "孙峻采纳征北大将军文钦的计谋，准备北征魏国。十二月，修建太庙；任命冯朝为监军使者，督领徐州各项军事。"


def borders(name, texts):
    starts_word = begin_words(texts) | np.array([not text for text in texts])
    return words.borders(name, starts_word=starts_word, texts=texts, key=KEY)


def divided(name, *pieces):
    """The words of a row of pieces, each of them joined; a special token is ""."""
    texts = [piece if isinstance(piece, bytes) else piece.encode() for piece in pieces]
    begins = borders(name, texts)(np.arange(len(texts), dtype=np.int32))
    assert begins.dtype == bool and len(begins) == len(texts)
    stops = [*np.flatnonzero(begins)[1:].tolist(), len(texts)]
    return [b"".join(texts[a:b]).decode(errors="replace") for a, b in zip(np.flatnonzero(begins), stops, strict=True)]


@pytest.fixture
def rjieba():
    return pytest.importorskip("rjieba")


def test_pieces_keep_latin_words_together_and_divide_chinese_characters():
    assert divided("pieces", "", "hel", "lo", ",", " 我", "们", "学习", "") == ["", "hello,", " 我", "们", "学习", ""]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (("我", "们", "在", "北京", "大学", "学习", "。"), ["我们", "在", "北京大学", "学习", "。"]),
        # A piece in which a word begins, begins a word itself.
        (("我们", "在北", "京", "学", "习"), ["我们", "在北京", "学习"]),
        # Latin words and numbers are as in "pieces".
        ((" don", "'", "t", " stop", ",", " 1", "4.5", "%"), [" don't", " stop,", " 14.5%"]),
        (("我", "们", "ab", "cd", "，", "学", "习", " we", "b"), ["我们", "abcd", "，", "学习", " web"]),
        (("T", "恤", "a", "😀", "b"), ["T恤", "a", "😀", "b"]),
        # No word continues across a special token.
        (("", "北", "", "京", "", ""), ["", "北", "", "京", "", ""]),
        # Characters in bytes, and pieces and rows that end within a character.
        ((b"\xe5", b"\x8c", b"\x97", "京", "大"), ["北京", "大"]),
        (("我", b"\xe4\xbb", b"\xac\xe5\xad", b"\xa6", "习"), ["我\ufffd", "\ufffd学习"]),
        ((b"\x8c", b"\x97", "京", "我", b"\xe4"), ["\ufffd\ufffd", "京", "我", "\ufffd"]),
        (("\0", "我", "们", "\0", "\n"), ["\0", "我们", "\0", "\n"]),
    ],
)
def test_chinese_words(pieces, expected, rjieba):
    assert divided("rjieba", *pieces) == expected


def test_an_empty_row_has_no_words(rjieba):
    assert borders("rjieba", [b"", b" a"])(np.zeros(0, np.int32)).tolist() == []


def test_a_piece_begins_a_word_exactly_if_a_word_of_the_text_begins_in_it(rjieba):
    rng = np.random.default_rng(0)
    data, starts = TEXT.encode(), np.cumsum([0, *(len(word.encode()) for word in rjieba.cut(TEXT))])
    for _ in range(50):
        cuts = np.unique(np.concatenate([[0, len(data)], rng.integers(0, len(data), rng.integers(1, 120))]))
        texts = [data[start:stop] for start, stop in zip(cuts, cuts[1:], strict=False)]
        ids = rng.permutation(len(texts)).astype(np.int32)
        table = [b""] * len(texts)
        for place, token in enumerate(ids):
            table[token] = texts[place]

        begins = borders("rjieba", table)(ids)

        counts = np.histogram(starts[:-1], cuts)[0]
        assert np.array_equal(begins, counts > 0)


def test_the_tables_of_a_tokenizer_divide_its_own_rows(rjieba, golden_tokenizer):
    more = tokenizers.extend(golden_tokenizer, ["北京"])
    row = np.concatenate([[more.cls], more.encode("we study in 北京大学，hello"), [more.sep]]).astype(np.int32)

    begins = words.borders("rjieba", starts_word=more.starts_word, texts=more.texts, key=KEY)(row)

    groups = np.split(row, np.flatnonzero(begins)[1:])
    decoded = [more.decode(group) for group in groups]
    assert [word.strip() for word in decoded] == ["", "we", "study", "in", "", "北京大学", "，", "hello", ""]
    assert b"".join(more.texts[token] for token in row).decode().strip() == "we study in 北京大学，hello"


def test_borders_that_cannot_be_found_are_refused(monkeypatch):
    with pytest.raises(InputError, match=f"{KEY} is 'jieba'.*did you mean rjieba"):
        borders("jieba", [b"", b" a"])
    with pytest.raises(InputError, match=f"{KEY} is 'pieces', but it is unknown which pieces"):
        words.borders("pieces", starts_word=None, texts=[b"a"], key=KEY)
    with pytest.raises(InputError, match="does not know the text of its pieces"):
        words.borders("rjieba", starts_word=np.ones(2, bool), texts=[], key=KEY)
    monkeypatch.setitem(sys.modules, "rjieba", None)
    with pytest.raises(InputError, match=r"not installed: pip install 'lm_jax\[chinese\]'"):
        borders("rjieba", [b"", b" a"])
