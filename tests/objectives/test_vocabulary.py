"""A tokenizer fits a table that lacks rows only for ids that nothing reads."""

import dataclasses

import pytest

from lm_jax.core.config import InputError
from lm_jax.data import tokenizers
from lm_jax.data.conventions import ConventionsConfig
from lm_jax.objectives import vocabulary

PLAIN = ConventionsConfig()


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes whose last id is a sentinel: 263 ids and one more."""
    return tokenizers.train(tokenizers.TokenizerConfig(kind="bytes", sentinels=1), ())


def with_roles(tokenizer, **roles):
    """The same tokenizer with other special ids."""
    import copy

    other = copy.copy(tokenizer)
    for role, token in roles.items():
        setattr(other, role, token)
    return other


def test_what_fits_is_as_the_tokenizer_has_it(tokenizer):
    found = vocabulary.of(tokenizer, tokenizer.vocab_size, "decoder", PLAIN)
    assert (found.size, found.pad, found.eos) == (264, tokenizer.pad, tokenizer.eos)
    assert found.sentinels == (263,)


def test_padding_without_a_row_is_a_row_that_is_there(tokenizer):
    added = with_roles(tokenizer, pad=263)
    vocabulary.check(added, 263)
    found = vocabulary.of(added, 263, "decoder", PLAIN)
    assert (found.size, found.pad, found.sentinels) == (263, tokenizer.eos, ())
    assert vocabulary.padding(with_roles(added, eos=263), 263, "decoder", PLAIN) == 0


def test_a_role_without_a_row_is_a_role_that_is_not_there(tokenizer):
    found = vocabulary.of(with_roles(tokenizer, mask=263), 263, "encoder", PLAIN)
    assert found.mask is None and dataclasses.asdict(found)["cls"] == tokenizer.cls


def test_pieces_of_text_without_a_row_are_refused(tokenizer):
    with pytest.raises(InputError, match="config.model.embed.vocab 200 is less than the tokenizer's 264"):
        vocabulary.check(tokenizer, 200)


def test_what_ends_a_text_and_what_a_decoder_starts_with_need_a_row(tokenizer):
    with pytest.raises(InputError, match=r"every text ends with <extra_id_0>, id 263"):
        vocabulary.of(with_roles(tokenizer, eos=263), 263, "decoder", PLAIN)
    with pytest.raises(InputError, match=r"the decoder starts with <extra_id_0>, id 263"):
        vocabulary.of(with_roles(tokenizer, pad=263), 263, "encoder_decoder", PLAIN)
