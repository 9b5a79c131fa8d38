"""A tokenizer may have more ids than an embedding table has rows, if the model never reads them."""

import copy
import dataclasses

import pytest

from lm_jax.core.config import InputError
from lm_jax.data import tokenizers
from lm_jax.data.conventions import ConventionsConfig
from lm_jax.objectives import vocabulary

PLAIN = ConventionsConfig()


@pytest.fixture(scope="module")
def tokenizer():
    """A byte tokenizer with 264 ids; the last, 263, is a sentinel."""
    return tokenizers.train(tokenizers.TokenizerConfig(kind="bytes", sentinels=1), ())


def with_ids(tokenizer, **ids):
    """A copy of the tokenizer with other special ids."""
    other = copy.copy(tokenizer)
    for name, token in ids.items():
        setattr(other, name, token)
    return other


def test_a_full_table_has_all_ids_of_the_tokenizer(tokenizer):
    vocab = vocabulary.of(tokenizer, tokenizer.vocab_size, "decoder", PLAIN)
    assert (vocab.size, vocab.pad, vocab.eos) == (264, tokenizer.pad, tokenizer.eos)
    assert vocab.sentinels == (263,)


def test_padding_without_a_row_becomes_eos_or_zero(tokenizer):
    added = with_ids(tokenizer, pad=263)
    vocabulary.check(added, 263)
    vocab = vocabulary.of(added, 263, "decoder", PLAIN)
    assert (vocab.size, vocab.pad, vocab.sentinels) == (263, tokenizer.eos, ())
    assert vocabulary.padding(with_ids(added, eos=263), 263, "decoder", PLAIN) == 0


def test_a_special_token_without_a_row_becomes_none(tokenizer):
    vocab = vocabulary.of(with_ids(tokenizer, mask=263), 263, "encoder", PLAIN)
    assert vocab.mask is None and dataclasses.asdict(vocab)["cls"] == tokenizer.cls


def test_pieces_of_text_without_a_row_are_refused(tokenizer):
    with pytest.raises(InputError, match="config.model.embed.vocab 200 is less than the tokenizer's 264"):
        vocabulary.check(tokenizer, 200)


def test_eos_and_the_first_token_of_a_decoder_need_a_row(tokenizer):
    with pytest.raises(InputError, match=r"every text ends with <extra_id_0>, id 263"):
        vocabulary.of(with_ids(tokenizer, eos=263), 263, "decoder", PLAIN)
    with pytest.raises(InputError, match=r"the decoder starts with <extra_id_0>, id 263"):
        vocabulary.of(with_ids(tokenizer, pad=263), 263, "encoder_decoder", PLAIN)
