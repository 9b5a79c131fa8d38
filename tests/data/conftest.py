"""Fixtures of the data tests: the golden text, its tokenizer and its token store."""

import pytest

from lm_jax.data import store, tokenizers
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.sources import SourceConfig


@pytest.fixture(scope="session")
def golden(repository):
    return repository / "tests" / "golden"


@pytest.fixture(scope="session")
def golden_tokenizer(golden):
    return tokenizers.load(golden / "tokenizer")


@pytest.fixture(scope="session")
def golden_store(golden, golden_tokenizer, tmp_path_factory):
    source = SourceConfig(path=str(golden / "text.txt"), document="paragraph")
    return store.prepare(tmp_path_factory.mktemp("root"), source, CleanConfig(), golden_tokenizer)
