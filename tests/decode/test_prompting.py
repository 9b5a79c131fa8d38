import json
from pathlib import Path

import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.data import tokenizers
from lm_jax.data.tokenizers import training
from lm_jax.decode import prompting

TEXT = "the cat sat on the mat and the dog sat on the log\nthe cow saw the cat and the dog in the fog\n"


@pytest.fixture(scope="module", params=["unigram", "bytes"])
def tokenizer(request):
    config = tokenizers.TokenizerConfig(kind=request.param, vocab=500, sentinels=4)
    return tokenizers.train(config, [TEXT, Path(training.__file__).read_text()])


def test_a_masked_prompt_is_between_cls_and_sep(tokenizer):
    row = prompting.masked_prompt(tokenizer, "the <mask> sat on [MASK]")
    assert (row[0], row[-1]) == (tokenizer.cls, tokenizer.sep)
    assert (row == tokenizer.mask).sum() == 2


def test_a_filled_row_reads_as_the_text(tokenizer):
    # A SentencePiece piece at the start of a word includes the space before it; a byte does not.
    row = prompting.masked_prompt(tokenizer, "the <mask> sat")
    word = tokenizer.encode(" the" if tokenizer.kind == "unigram" else "t")
    assert len(word) == 1
    text = prompting.filled(tokenizer, row, [(int(np.flatnonzero(row == tokenizer.mask)[0]), int(word[0]))])
    assert text == ("the the sat" if tokenizer.kind == "unigram" else "the t sat")


def test_text_without_a_mask_is_refused(tokenizer):
    with pytest.raises(InputError, match=r"has no \[MASK\]; write \[MASK\] for each piece"):
        prompting.masked_prompt(tokenizer, "the cat sat")


def test_spans_are_restored_where_they_were_removed(tokenizer):
    source = prompting.span_prompt(tokenizer, "the <extra_id_0> sat on<extra_id_1>")
    # A piece includes the space before its word; a byte does not.
    spaced = tokenizer.encode(" cat" if tokenizer.kind == "unigram" else "cat")
    first, second = tokenizer.sentinels[:2]
    generated = np.array(
        [first, *spaced, second, *tokenizer.encode(" the mat"), tokenizer.eos, *tokenizer.encode("dog")]
    )
    assert prompting.restored(tokenizer, source, generated) == "the cat sat on the mat"


def test_masks_in_a_source_are_those_of_training(tokenizer):
    row = prompting.span_prompt(tokenizer, "the <mask> sat <extra_id_1> on [MASK]")
    assert (row == tokenizer.mask).sum() == 2
    assert (row == tokenizer.sentinels[1]).sum() == 1


def test_a_sentinel_without_a_span_is_shown_by_name(tokenizer):
    source = prompting.span_prompt(tokenizer, "the cat<extra_id_2> on")
    assert prompting.restored(tokenizer, source, [tokenizer.eos]) == "the cat<extra_id_2> on"


@pytest.mark.parametrize("text", ["a <extra_id_4>", "a <extra_id_0> b <extra_id_0>"])
def test_impossible_sentinels_are_refused(tokenizer, text):
    with pytest.raises(InputError, match="<extra_id_"):
        prompting.span_prompt(tokenizer, text)


def test_a_decoder_prompt_has_no_special_ids(tokenizer):
    ids = prompting.decoder_prompt(tokenizer, "<mask> [CLS] <extra_id_0>")
    assert not set(ids.tolist()) & set(prompting.unwritable(tokenizer, tokenizer.vocab_size))


def test_unfinished_characters_are_held_back():
    tokenizer = tokenizers.train(tokenizers.TokenizerConfig(kind="bytes"), [TEXT])
    ids, shown = tokenizer.encode("a é 猫"), ""
    for stop in range(1, len(ids) + 1):
        new = prompting.readable(tokenizer, [], ids[:stop], shown)
        assert "\ufffd" not in new
        shown += new
    assert shown == "a é 猫"


def test_only_pieces_and_eos_may_be_generated(tokenizer):
    unwritable = prompting.unwritable(tokenizer, tokenizer.vocab_size + 3)
    assert (
        tokenizer.eos not in unwritable
        and tokenizer.vocab_size + 2 in unwritable
        and tokenizer.sentinels[0] in unwritable
    )
    assert tokenizer.sentinels[0] not in prompting.unwritable(tokenizer, tokenizer.vocab_size, sentinels=True)


def test_a_continuation_keeps_its_leading_space(tmp_path):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    tree = {
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "</s>", "special": True, **flags}],
        "pre_tokenizer": metaspace,
        "decoder": metaspace,
        "model": {"type": "WordLevel", "vocab": {"</s>": 0, "▁The": 1, "▁class": 2, "▁is": 3}, "unk_token": "</s>"},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    tokenizer = tokenizers.load(tmp_path)
    ids = tokenizer.encode("The class is")
    assert tokenizer.decode(ids[1:]) == "class is"
    assert prompting.continuation(tokenizer, ids[:1], ids[1:]) == " class is"
    assert prompting.readable(tokenizer, ids[:1], ids[1:], " class") == " is"
