"""Exported tokenizers give our ids and texts in the `tokenizers` library."""

import copy

import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.data import tokenizers
from lm_jax.data.tokenizers import TokenizerConfig, interchange
from lm_jax.decode import prompting

SPECIALS = "[PAD][UNK] [MASK] [CLS]<extra_id_0> <s></s> [EOS] and <mask>"
HARD = (
    *("", " ", "  ", "   x", "\n", "a\nb", "a\r\nb\r\n", "\t\tx\t", "\0", "a\0b", "trailing  \n "),
    *("▁", "▁▁a", "a ▁ b", "▁the", "the▁", "▁ ▁", "</w> Ġthe ## ##s", "\u2047 \ufffd"),
    *("<0x41>", "<0x0A> <0x0", "x<0xE4><0xBD>", "0x0A>", "<<0x00>>"),
    *("naïve café Straße", "e\u0301\u0302", "ﬁ ½ 𝒳", "שָׁלוֹם عالم", "\u2028\x85\u200b\ufeff\u3000\u00a0"),
    *("天地玄黄，宇宙洪荒。", "今天天气很好！「好的。」", "\U0010ffff\ue000", "#" * 7, "......"),
    *("👩‍👩‍👧‍👦 👍🏽 🇩🇪🇯🇵 ❤️", "it's 3.14, e.g. 'quoted'"),
    "def f(x):\n\tif x:\n        return {'a':  1}  # end\n\n",
)
# Longer than `parts.PART`, with line breaks, spaces or "▁" to split at, or none of them.
LONG = (
    *("x" * 4100, "天地玄黄" * 1100, "the old weaver " * 300, "a line\n" * 600, "\n" * 2100),
    *("x" + " " * 3 + "y" * 2500, "the " * 600 + "▁" + "the " * 600, "x\ny" * 900),
)
KINDS = ("unigram", "bpe", "wordpiece", "byte_bpe", "bytes", "characters")
LOSSLESS = ("unigram", "bpe", "byte_bpe", "bytes")


@pytest.fixture(scope="module")
def trained(golden):
    """Return a tokenizer of every kind."""
    text = (golden / "text.txt").read_text()[:20_000]
    train = lambda kind: tokenizers.train(TokenizerConfig(kind=kind, vocab=500, sentinels=3), [text])
    return {kind: train(kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def ours(request, trained):
    return trained[request.param]


def opened(tokenizer, kind="decoder", *, literal=False):
    """Return the library's tokenizer; `literal`: names of special tokens in text are encoded as text."""
    import tokenizers as library

    theirs = library.Tokenizer.from_str(interchange.files(tokenizer, kind)["tokenizer.json"].decode())
    theirs.encode_special_tokens = literal
    return theirs


def ids(theirs, text):
    return theirs.encode(text, add_special_tokens=False).ids


def reloaded(tokenizer, folder):
    for name, content in interchange.files(tokenizer, "decoder").items():
        (folder / name).write_bytes(content)
    return tokenizers.load(folder)


def test_exported_tokenizers_give_our_ids(ours):
    theirs = opened(ours)
    differ = [text for text in (*HARD, *LONG) if ids(theirs, text) != ours.encode(text).tolist()]
    assert not differ


def test_exported_tokenizers_decode_our_ids_to_our_text(ours):
    theirs = opened(ours)
    decode = lambda text: theirs.decode(ours.encode(text).tolist(), skip_special_tokens=False)
    differ = [text for text in HARD if decode(text) != ours.decode(ours.encode(text))]
    assert not differ


def test_names_of_special_tokens_can_be_encoded_as_text(ours):
    assert ids(opened(ours, literal=True), SPECIALS) == ours.encode(SPECIALS).tolist()
    assert ours.mask in ids(opened(ours), SPECIALS)


def test_exported_files_are_loaded_with_the_same_ids_and_roles(ours, tmp_path):
    again = reloaded(ours, tmp_path)
    names = ("vocab_size", "pad", "unk", "eos", "cls", "sep", "mask", "lossless", "carries_space")
    assert [getattr(again, name) for name in names] == [getattr(ours, name) for name in names]
    assert again.sentinels.tolist() == ours.sentinels.tolist()
    # A decoder generates from EOS if the prompt is empty.
    assert again.bos == ours.eos
    for text in (*HARD, SPECIALS):
        assert again.encode(text).tolist() == ours.encode(text).tolist(), text
        if ours.kind in LOSSLESS:
            assert again.lengths[again.encode(text)].sum() == len(text.encode()), text


def test_the_template_of_an_encoder_adds_cls_and_sep(ours):
    theirs = opened(ours, "encoder")
    assert theirs.encode("the [MASK] weaver").ids == prompting.masked_prompt(ours, "the <mask> weaver").tolist()
    pair = theirs.encode("one", "two")
    one, two = ours.encode("one").tolist(), ours.encode("two").tolist()
    assert pair.ids == [ours.cls, *one, ours.sep, *two, ours.sep]
    assert pair.type_ids == [0] * (len(one) + 2) + [1] * (len(two) + 1)


def test_the_template_of_an_encoder_decoder_adds_eos_to_the_source(ours):
    text = "the <extra_id_0> weaver<extra_id_1>"
    expected = [*prompting.span_prompt(ours, text).tolist(), ours.eos]
    assert opened(ours, "encoder_decoder").encode(text).ids == expected


def test_ids_around_a_text_and_added_tokens_are_exported(ours):
    more = tokenizers.extend(ours, ("<|user|>", "harbour"))
    files = interchange.files(more, "decoder", around=tokenizers.Template((ours.bos,), (ours.sep,)))
    import tokenizers as library

    theirs = library.Tokenizer.from_str(files["tokenizer.json"].decode())
    text = "the harbour<|user|> of"
    assert theirs.encode(text).ids == [ours.bos, *more.encode(text).tolist(), ours.sep]


def test_markers_are_exported_as_special_tokens(ours):
    markers = ("<|user|>", ours.piece(ours.sep))
    marked = tokenizers.extend(ours, markers, markers)
    text, sides = "the harbour <|user|> of", (markers[0], markers[1])
    found, literal = opened(marked), opened(marked, literal=True)
    expected = tokenizers.within(marked, sides).encode("the harbour".join(sides)).tolist()
    assert ids(found, "the harbour".join(sides)) == expected == [ours.vocab_size, *ours.encode("the harbour"), ours.sep]
    assert ids(literal, text) == marked.encode(text).tolist()


def test_the_template_of_a_decoder_adds_no_special_tokens(ours):
    assert opened(ours).encode("the old weaver").ids == ours.encode("the old weaver").tolist()


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_names_of_bytes_in_text_are_spelled_if_the_alphabet_lacks_their_characters(kind):
    ours = tokenizers.train(TokenizerConfig(kind=kind, vocab=282), ["the weaver mends clocks; the weavers rest\n" * 9])
    theirs = opened(ours, literal=True)
    for text in ("the<0x0A>rest", "[MASK] [a", *HARD):
        assert ids(theirs, text) == ours.encode(text).tolist(), text


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_tokenizer_of_a_text_without_a_space_encodes_spaces(kind):
    ours = tokenizers.train(TokenizerConfig(kind=kind), ["今天天气很好，我们去公园散步吧。\n" * 9])
    theirs = opened(ours, literal=True)
    for text in HARD:
        assert ids(theirs, text) == ours.encode(text).tolist(), text


def test_a_kind_without_a_tokenizer_json_is_refused_by_name(trained):
    foreign = copy.copy(trained["bytes"])
    foreign.kind = "words"
    with pytest.raises(InputError, match="words.*unigram"):
        interchange.files(foreign, "decoder")


def test_the_caveat_lists_runs_that_may_be_split_in_another_order(trained):
    assert "in another order" in interchange.caveat(trained["unigram"])
    assert not any(interchange.caveat(trained[kind]) for kind in KINDS if kind != "unigram")


def test_exported_tokenizers_give_our_ids_for_random_text(ours):
    rng, theirs = np.random.default_rng(0), opened(ours)
    points = [*range(0x20, 0x7F), 0x09, 0x0A, 0x0D, 0xE9, 0x301, 0x2581, 0x4F60, 0x200D, 0x1F600]
    texts = ["".join(map(chr, rng.choice(points, 60))) for _ in range(40)]
    assert not [text for text in texts if ids(theirs, text) != ours.encode(text).tolist()]
