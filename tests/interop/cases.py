"""Reference cases beside the repository, for the tests of this folder."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "parity"

FAMILIES = (
    *("gpt2", "llama2", "llama3", "llama_yarn", "bert", "t5", "t5v1_1", "mt5", "umt5", "mistral", "qwen2", "qwen3"),
    *("gemma", "gemma2", "gemma3", "gptj", "gpt_neox", "gpt_neo", "bloom", "falcon", "mpt", "opt", "opt350m", "gpt"),
    *("roberta", "distilbert", "electra_disc", "electra_gen", "albert", "bert_qa", "bert_seqcls", "modernbert"),
    *("bart", "marian", "pegasus", "mixtral", "xlnet", "xlnet_uni", "deberta_v3", "transformer2017"),
)


def case(family: str) -> Path:
    """The folder of a family's case; skips the test if it is missing."""
    folder = FOLDER / family
    if not folder.is_dir():
        pytest.skip(f"no reference case ../shared/parity/{family} beside the repository")
    return folder
