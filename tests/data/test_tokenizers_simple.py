"""The placeholder of a checkpoint without a tokenizer, the case of a vocab.txt, and Git LFS pointers."""

import pytest

from lm_jax.core.config import InputError
from lm_jax.data import tokenizers


def test_the_placeholder_is_saved_and_refuses_text(tmp_path):
    tokenizers.ids_tokenizer({"rows": 9, "roles": {"mask": 4, "eos": 2}}).save(tmp_path)
    again = tokenizers.load(tmp_path)
    assert (again.kind, again.vocab_size, again.mask, again.eos, again.pad) == ("ids", 9, 4, 2, 2)
    assert again.piece(7) == "7"
    with pytest.raises(InputError, match=r"--prompt_ids=1,2,3.*--tokenizer=PATH"):
        again.encode("text")
    with pytest.raises(InputError, match="takes ids"):
        tokenizers.refuse_ids(tmp_path)


def test_without_an_end_of_text_token_eos_is_minus_one_and_pad_is_zero():
    tokenizer = tokenizers.ids_tokenizer({"rows": 9, "roles": {}})
    assert (tokenizer.eos, tokenizer.pad) == (-1, 0)


def test_a_vocabulary_with_upper_case_is_cased_unless_a_file_sets_lower_case(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "C", "c"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    assert tokenizers.cased(tmp_path) and tokenizers.cased(tmp_path / "vocab.txt")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert not tokenizers.cased(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "vocab.txt").write_text("\n".join([*pieces[:5], "[unused0]", "c"]))
    assert not tokenizers.cased(tmp_path)


def test_a_git_lfs_pointer_in_place_of_a_tokenizer_is_reported(tmp_path):
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\nsize 1355256\n")
    with pytest.raises(InputError, match="Git LFS pointer"):
        tokenizers.load(tmp_path)
