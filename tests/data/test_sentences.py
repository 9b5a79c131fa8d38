"""Sentence starts: each case is a list of sentences, into which the joined text has to be split again."""

import json
import lzma

import numpy as np
import pytest

from lm_jax.data import sentences


def split(text):
    data = text.encode()
    starts = sentences.starts(data)
    return [data[start:stop].decode() for start, stop in zip(starts, [*starts[1:], len(data)], strict=True)]


LATIN = [
    ["It rained.", " Nobody came!", " Why?", " We waited."],
    ["Mr. Hall met Dr. M. K. Stone of St. Ives.", " They spoke."],
    ["He came from the U.S. Army, e.g. Boston, i.e. the north.", " Then he left."],
    ["“Stop!” he said.", " “Never!”", " She ran."],
    ['"Is it late?" asked Ann.', ' "No."', " She sat down."],
    ["She wept (I saw it.)", " Then she slept."],
    ["It costs 3.50 or 1,000.5 marks.", " Cheap!"],
    ["Well... perhaps... I think so.", " Yes… I do."],
    ["They left...", " He stayed.", " Wait…", " No more."],
    ["“Mr. Jones!” cried she.", " 'Mrs. Dale,' said he."],
    ["I don’t.", " He won't.", " It was said I.", " Then we left."],
    ["Am 3. Oktober kam Hr. Dr. Weiß, z. B. mit Hut.", " Übrigens schlief er.", " Ärger gab es nicht."],
    ["»Wer da?« rief er.", " »Ich!«", " Stille."],
    ["1. First item\n", "2. Second item\n", "- third\n", "- fourth"],
    ["What?!", " Never again!!", " Good."],
    ["Two spaces. ", " Then on."],
    ["Он пришёл.", " Она ушла!", " Где?"],
    ["Ήρθε.", " Έφυγε."],
    ["In 1847.", " He died in 1850."],
    ["No.", " I will not.", " See No. 5 and p. 12 there."],
    ["She looked. . . .", " Perhaps he knew."],
    ["version 2.0 of a.b.c at www.example.org is out"],
]
CHINESE = [
    ["他来了。", "你好！", "是吗？", "好"],
    ["“你好！”", "他说。", "「行。」", "她走了。"],
    ["真的吗？！", "不！！", "走吧……", "他走了。"],
    ["“……我不知道。”", "她说。"],
    ["他说“好。”，然后走了。", "完"],
    ["第1.5节很长。", "（见图。）", "下一节。"],
    ["使用GPU。", "The end.", " 然后结束。"],
    ["很好!", "再见?", "走."],
    ["第一行\n", "第二行，\n还是第二行。\n\n", "第三段"],
    ["雨です。", "寒い｡", "はい！"],
]
WRAPPED = (
    "The fellow had actually managed to steal a lighter with silver, and\n"
    "this, it seems, only because he was trusted by Mr.\n"
    "Holmes, who must have been a singularly poor judge of character in London and in\n"
    "Paris. In the story he is a rascal.\n"
    "It was openly said.\n"
    '"You fool," he said to the man with whom he had been standing near the\n'
    'window, "what do you want?"\n'
)


@pytest.mark.parametrize("parts", LATIN + CHINESE, ids=lambda parts: parts[0][:20])
def test_text_is_split_into_its_sentences(parts):
    assert split("".join(parts)) == parts


def test_lines_of_a_wrapped_paragraph_are_not_sentences():
    assert split(WRAPPED) == [
        WRAPPED[: WRAPPED.index(" In the story")],
        " In the story he is a rascal.\n",
        "It was openly said.\n",
        WRAPPED[WRAPPED.index('"You fool') :],
    ]


def test_short_lines_and_paragraphs_are_sentences():
    verse = ["Shall I compare thee to\n", "a summer day\n", "thou art more\n\n", "lovely\n"]
    assert split("".join(verse)) == verse


@pytest.mark.parametrize("text", ["", ".", "\n", "\n\n\n", "。", "…", " ", "a", "Mr.", "... ", "é", "“"])
def test_sentence_starts_ascend_from_0_within_the_text(text):
    starts = sentences.starts(text.encode())

    assert starts[0] == 0
    assert (starts[1:] < len(text.encode())).all()
    assert (np.diff(starts) > 0).all()


def test_joined_texts_have_the_sentences_of_each():
    parts = [*LATIN[0], "\n", *CHINESE[0], "\n", *LATIN[1]]
    separate = [split("".join(group)) for group in (LATIN[0], CHINESE[0], LATIN[1])]

    assert len(split("".join(parts))) == sum(map(len, separate))


def test_sentences_of_novels_have_plausible_lengths(shared_data):
    with lzma.open(shared_data / "english_novels" / "novels_dev.jsonl.xz", "rt") as lines:
        data = json.loads(next(lines))["text"].encode()
    lengths = np.diff(sentences.starts(data))

    assert 60 < np.median(lengths) < 110
    # Lines of the novel have 70 bytes: some sentences must span several.
    assert (lengths > 100).mean() > 0.3
