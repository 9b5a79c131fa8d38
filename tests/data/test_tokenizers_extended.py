"""Added tokens are found anywhere in a text and do not change the other ids."""

import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.data import tokenizers
from lm_jax.data.tokenizers import TokenizerConfig
from tests.commands import GOLDEN

NAMES = ("<|user|>", "harbour", "<|user|><|end|>")
TEXT = "the harbour<|user|> of <|user|><|end|>é harbour"
KINDS = ("unigram", "bpe", "wordpiece", "byte_bpe", "bytes", "characters")


@pytest.fixture(scope="module", params=KINDS)
def pair(request):
    config = TokenizerConfig(kind=request.param, vocab_at_most=400)
    text = (GOLDEN / "text.txt").read_text()
    base = tokenizers.train(config, [text], len(text))
    return base, tokenizers.extend(base, NAMES)


def test_each_added_name_is_one_token_and_the_text_between_names_keeps_its_ids(pair):
    base, extended = pair
    ids = dict(zip(NAMES, (extended.encode(name).tolist() for name in NAMES), strict=True))
    assert all(len(tokens) == 1 for tokens in ids.values())
    # A name that is already a piece gets no new id.
    assert extended.vocab_size - base.vocab_size == sum(name not in base.pieces for name in NAMES)
    user, harbour, both = (ids[name] for name in NAMES)
    between = [base.encode(part).tolist() for part in ("the ", " of ", "é ")]
    expected = [*between[0], *harbour, *user, *between[1], *both, *between[2], *harbour]
    assert extended.encode(TEXT).tolist() == expected
    np.testing.assert_array_equal(extended.encode("no name in it"), base.encode("no name in it"))


def test_batches_and_starts_agree_with_single_texts(pair):
    _, extended = pair
    texts = [TEXT, "", "plain", "harbour"]
    for tokens, text in zip(extended.encode_batch(texts), texts, strict=True):
        np.testing.assert_array_equal(tokens, extended.encode(text))
    located = extended.encode_with_starts(texts)
    np.testing.assert_array_equal(located.tokens, np.concatenate([extended.encode(text) for text in texts]))
    data = "\n".join(texts).encode()
    for token, start in zip(located.tokens, located.starts, strict=True):
        if extended.piece(int(token)) in NAMES:
            assert data[start:].startswith(extended.piece(int(token)).encode())


def test_decoding_gives_back_the_text(pair):
    _, extended = pair
    if extended.lossless:
        assert extended.decode(extended.encode(TEXT)) == TEXT
    assert extended.decode(extended.encode("harbour")) == "harbour"


def test_an_extended_tokenizer_is_saved_and_has_another_fingerprint(pair, tmp_path):
    base, extended = pair
    extended.save(tmp_path)
    again = tokenizers.load(tmp_path)
    assert again.fingerprint == extended.fingerprint != base.fingerprint
    np.testing.assert_array_equal(again.encode(TEXT), extended.encode(TEXT))
    assert tokenizers.extend(again, NAMES).fingerprint == extended.fingerprint
    assert tokenizers.extend(again, ("zzq",)).vocab_size == extended.vocab_size + 1


@pytest.mark.parametrize("markers", [(), ("", "a", " ")])
@pytest.mark.parametrize("names", [("",), ("a", "a"), ("[MASK]",), (" ",)])
def test_names_that_cannot_be_added_are_refused(names, markers):
    key = "markers" if names[0] in markers else "add"
    with pytest.raises(InputError, match=f"config.data.tokenizer.{key} holds"):
        tokenizers.extend(tokenizers.load(GOLDEN / "tokenizer"), names, markers)


MARKERS = ("<|user|>", "<|end|>")
SIDES = ("<|user|> Why", "<|end|>\n<|user|>")


def test_markers_are_tokens_in_the_template_alone(pair):
    base, _ = pair
    marked = tokenizers.extend(base, ("harbour", *MARKERS), MARKERS)
    user, end = (marked.pieces.index(name) for name in MARKERS)
    spelled = marked.encode("a<|user|>b<|end|>").tolist()
    assert spelled == base.encode("a<|user|>b<|end|>").tolist() and not {user, end} & {*spelled}
    assert marked.encode("harbour").tolist() == [marked.pieces.index("harbour")]

    reader, text = tokenizers.within(marked, SIDES), " the harbour <|end|> is <|user|> far"
    ids = reader.encode(text.join(SIDES)).tolist()
    assert [token for token in ids if token in (user, end)] == [user, end, user] and ids[0] == user == ids[-1]
    middle = ids[1 : -1 - ids[::-1].index(end)]
    assert middle == marked.encode(f" Why{text}").tolist()
    encoded, whole = reader.encode_with_starts([text.join(SIDES)] * 2), text.join(SIDES).encode()
    assert encoded.tokens.tolist() == ids * 2 and (np.diff(encoded.starts) >= 0).all()
    assert encoded.starts[len(ids)] == len(whole) + 1 and encoded.starts[len(ids) - 1] == whole.rindex(b"<|user|>")
    assert tokenizers.within(marked, ("Question: ", "")) is marked and tokenizers.within(base, SIDES) is base
    if marked.lossless:
        assert reader.decode(ids) == text.join(SIDES)


def test_a_tokenizer_with_markers_is_saved(pair, tmp_path):
    base, _ = pair
    marked = tokenizers.extend(base, ("harbour", *MARKERS), MARKERS)
    more = tokenizers.extend(tokenizers.extend(marked, ("zzq",)), ("<|x|>",), ("<|x|>",))
    more.save(tmp_path)
    again = tokenizers.load(tmp_path)
    assert again.fingerprint == more.fingerprint and again.pieces == more.pieces
    assert tokenizers.extend(again, ("harbour", *MARKERS), MARKERS) is again
    for sides in (("", ""), SIDES, ("<|x|>", "")):
        text = "<|x|> zzq <|user|>".join(sides)
        reads = (tokenizers.within(each, sides).encode(text).tolist() for each in (again, more))
        assert next(reads) == next(reads)
    # Since it is found in texts too, it is another tokenizer.
    assert tokenizers.extend(again, ("<|x|>",)).fingerprint != again.fingerprint


def test_special_tokens_may_be_markers(pair):
    base, _ = pair
    marked = tokenizers.extend(base, ("[SEP]",), ("[SEP]",))
    assert marked.pieces == base.pieces
    reader = tokenizers.within(marked, ("[SEP]", "[SEP]"))
    ids = reader.encode("[SEP] the [SEP] tide [MASK][SEP]").tolist()
    assert ids == [base.sep, *base.encode(" the [SEP] tide [MASK]").tolist(), base.sep]
    with pytest.raises(InputError, match="add holds .*, which is a special token .*; leave it out, or put it into"):
        tokenizers.extend(base, ("[SEP]",))
