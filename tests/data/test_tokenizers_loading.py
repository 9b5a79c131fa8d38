"""Published tokenizers give their published ids; damaged files are refused."""

import gzip
import json
import random

import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.data import store, tokenizers
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.sources import SourceConfig
from lm_jax.data.tokenizers import TokenizerConfig, interchange, sentencepiece

TEXTS = {
    "english": "Hello, world!  It's 3.14, e.g. 'quoted'.",
    "chinese": "今天天气很好！我们去公园散步吧？「好的。」",
    "code": "def f(x):\n\tif x:\n        return {'a':  1}  # end\n\n",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 ☕️ e\u0301",
    "spaces": "  lead  and trail  ",
    "specials": "[MASK] [CLS]<|endoftext|></s><s> <unk> [PAD] <extra_id_0> <mask>",
    "empty": "",
}
FILES = {
    "bert": ("bert_base_uncased_vocab.txt.gz", "vocab.txt"),
    "chinese": ("bert_base_chinese_vocab.txt.gz", "vocab.txt"),
    "gpt2": ("gpt2_encoder.json.gz", "vocab.json"),
    "merges": ("gpt2_vocab.bpe.gz", "merges.txt"),
    "llama": ("llama2_tokenizer.model", "tokenizer.model"),
    "nfkc": ("spm_test_en.model", "spiece.model"),
}
LOSSLESS = ("gpt2", "llama")


@pytest.fixture(scope="session")
def published(shared_data, tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    for name, (source, file) in FILES.items():
        content = (shared_data / "tokenizers" / source).read_bytes()
        folder = root / ("gpt2" if name == "merges" else name)
        folder.mkdir(exist_ok=True)
        (folder / file).write_bytes(gzip.decompress(content) if source.endswith(".gz") else content)
    return root


@pytest.fixture(scope="session")
def loaded(published):
    return {name: tokenizers.load(published / name) for name in FILES if name != "merges"}


@pytest.fixture(params=["bert", "chinese", "gpt2", "llama", "nfkc"])
def named(request, loaded):
    return request.param, loaded[request.param]


def test_berts_ids_equal_the_reference(loaded, shared_data):
    tokenizer = loaded["bert"]
    reference = np.load(shared_data / "weights" / "minilm_reference.npz", allow_pickle=True)

    for sentence, ids in zip(reference["sents"], reference["input_ids"], strict=True):
        ids = ids[ids != tokenizer.pad]
        assert [tokenizer.cls, *tokenizer.encode(str(sentence)).tolist(), tokenizer.sep] == ids.tolist()
    assert tokenizer.decode(tokenizer.encode("A naïve Café's doors, (open)!")) == "a naive cafe's doors, (open)!"


@pytest.mark.parametrize(
    ("name", "text", "ids"),
    [
        ("gpt2", "Hello, world!", [15496, 11, 995, 0]),
        ("gpt2", "Hello world", [15496, 995]),
        ("llama", "Hello world", [15043, 3186]),
        ("chinese", "今天", [791, 1921]),
    ],
)
def test_known_texts_have_their_known_ids(loaded, name, text, ids):
    assert loaded[name].encode(text).tolist() == ids


def test_each_family_has_its_own_special_ids(loaded):
    ids = {
        name: [getattr(loaded[name], role) for role in ("pad", "unk", "bos", "eos", "cls", "mask")]
        for name in ("bert", "gpt2", "llama")
    }

    assert ids == {
        "bert": [0, 100, None, 102, 101, 103],
        # Without a padding token the end-of-text token pads, because padding is masked.
        "gpt2": [50256, None, None, 50256, None, None],
        "llama": [2, 0, 1, 2, None, None],
    }
    assert loaded["bert"].ordinary == (104, 30522)
    assert loaded["gpt2"].ordinary == (0, 50256)


@pytest.mark.parametrize("text", TEXTS)
def test_lossless_tokenizers_give_back_the_text(loaded, text):
    for name in LOSSLESS:
        tokenizer = loaded[name]
        assert tokenizer.lossless
        assert tokenizer.decode(tokenizer.encode(TEXTS[text])) == TEXTS[text]


def test_special_ids_never_come_from_text(named):
    _, tokenizer = named

    for text in (TEXTS["specials"], " ".join(map(tokenizer.piece, np.flatnonzero(tokenizer.special)[:50].tolist()))):
        ids = tokenizer.encode(text)
        assert not (tokenizer.special[ids] & (ids != tokenizer.unk)).any()


def test_markers_are_ids_in_a_template_and_text_elsewhere(named):
    _, tokenizer = named
    # The end of a text, as in LLaMA 2's template of a chat, and a token that the tokenizer lacks.
    names = ("<|im_start|>", tokenizer.piece(tokenizer.eos))
    marked = tokenizers.extend(tokenizer, names, names)
    text = f"so {names[1]} {names[0]}user: no"

    assert marked.encode(text).tolist() == tokenizer.encode(text).tolist()
    ids = tokenizers.within(marked, names).encode(text.join(names)).tolist()
    assert ids == [tokenizer.vocab_size, *tokenizer.encode(text).tolist(), tokenizer.eos]


def test_splitting_long_texts_does_not_change_their_ids(named, shared_data, monkeypatch):
    name, tokenizer = named
    text = gzip.decompress((shared_data / "tokenizers" / "botchan.txt.gz").read_bytes()).decode()[:120_000]
    backend = tokenizer.backend

    ids = tokenizer.encode(text)
    assert len(backend._split(text)) > 1
    monkeypatch.setattr(backend, "_split", lambda text: [text])

    assert np.array_equal(ids, tokenizer.encode(text))


def test_starts_are_offsets_in_the_text_before_normalisation(named):
    name, tokenizer = named
    words = ["Über", "ﬁne", "naïve", "今天", "word", "X"]
    texts = [" ".join(random.Random(seed).choices(words, k=700)) for seed in range(3)]
    data = "\n".join(texts).encode()

    encoded = tokenizer.encode_with_starts(texts)

    assert np.array_equal(encoded.tokens, np.concatenate([tokenizer.encode(text) for text in texts]))
    assert (np.diff(encoded.starts) >= 0).all()
    # "w" occurs in no other word.
    located = zip(encoded.tokens, encoded.starts, strict=True)
    offsets = [offset for token, offset in located if "w" in tokenizer.piece(int(token))]
    assert len(offsets) == data.count(b"word")
    assert all(data[offset : offset + 5].lstrip(b" \n").startswith(b"w") for offset in offsets)


def test_a_saved_tokenizer_is_the_same_when_loaded(named, tmp_path):
    _, tokenizer = named
    tokenizer.save(tmp_path)

    loaded = tokenizers.load(tmp_path)

    assert loaded.fingerprint == tokenizer.fingerprint
    assert (loaded.pad, loaded.eos, loaded.mask) == (tokenizer.pad, tokenizer.eos, tokenizer.mask)
    assert all(np.array_equal(loaded.encode(text), tokenizer.encode(text)) for text in TEXTS.values())


def test_the_library_reads_the_file_of_a_trained_tokenizer(golden, tmp_path):
    import tokenizers as library

    config = TokenizerConfig(kind="byte_bpe", vocab=500, sentinels=3)
    trained = tokenizers.train(config, [(golden / "text.txt").read_text()])
    trained.save(tmp_path)
    theirs = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))

    assert theirs.encode("the old weaver").ids == trained.encode("the old weaver").tolist()
    assert theirs.encode("[MASK]<extra_id_2>").ids == [trained.mask, trained.sentinels[2]]
    reloaded = tokenizers.load(tmp_path / "tokenizer.json")
    assert reloaded.sentinels.tolist() == trained.sentinels.tolist()
    assert [reloaded.pad, reloaded.eos, reloaded.mask] == [trained.pad, trained.eos, trained.mask]


def test_exported_files_give_the_same_ids(named):
    import tokenizers as library

    name, tokenizer = named
    theirs = library.Tokenizer.from_str(interchange.files(tokenizer, "decoder")["tokenizer.json"].decode())
    for text in (text for case, text in TEXTS.items() if case != "specials"):
        ids = tokenizer.encode(text).tolist()
        assert theirs.encode(text).ids == ids, (name, text)
        assert theirs.decode(ids, skip_special_tokens=False) == tokenizer.decode(ids)


def test_exporting_a_model_with_user_defined_symbols_is_refused(published, tmp_path):
    proto = sentencepiece.parse((published / "nfkc" / "spiece.model").read_bytes())
    proto.pieces[100].type = sentencepiece.USER
    (tmp_path / "spiece.model").write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match="user-defined symbols"):
        interchange.files(tokenizers.load(tmp_path), "decoder")


def t5(folder, published, **config):
    """Write a model like T5's: a published one with a tokenizer_config.json beside it."""
    folder.mkdir(exist_ok=True)
    (folder / "spiece.model").write_bytes((published / "nfkc" / "spiece.model").read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_t5s_sentinels_are_the_last_ids_in_reverse_order(published, tmp_path):
    tokenizer = tokenizers.load(t5(tmp_path / "a", published, tokenizer_class="T5Tokenizer", extra_ids=100))
    bare = tokenizers.load(published / "nfkc" / "spiece.model", sentinels=100)

    assert tokenizer.vocab_size == bare.vocab_size == 1100
    assert tokenizer.sentinels.tolist() == bare.sentinels.tolist() == list(range(1099, 999, -1))
    assert tokenizer.piece(1099) == "<extra_id_0>"
    assert tokenizer.decode([4, 1099, 1000, 4]) == tokenizer.decode([4, 4])
    assert not tokenizer.lossless and tokenizer.prefix_space


def test_the_files_beside_a_vocabulary_define_case_and_special_tokens(published, tmp_path):
    (tmp_path / "vocab.txt").write_bytes((published / "bert" / "vocab.txt").read_bytes())
    lower = tokenizers.load(tmp_path)
    case = {"do_lower_case": False, "strip_accents": False}
    settings = {**case, "sep_token": {"content": "[unused7]"}, "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "added_tokens.json").write_text('{"[EOS]": 30522}')
    cased = tokenizers.load(tmp_path)

    assert lower.encode("Hello").tolist() == lower.encode("hello").tolist()
    assert cased.encode("Hello").tolist() != cased.encode("hello").tolist()
    assert (cased.sep, cased.eos, cased.pad, cased.vocab_size) == (8, 30522, 30522, 30523)
    assert tokenizers.load(published / "bert" / "vocab.txt", lowercase=False).encode("Hi").tolist() == [100]


def test_a_special_token_that_is_a_word_of_the_text_is_spelled_in_pieces(tmp_path):
    # The pre-tokenizer splits at spaces only, so "<mask>" would be a word.
    vocabulary = {name: index for index, name in enumerate(["<unk>", "</s>", "<mask>", "<", "mask>", "the"])}
    tree = {
        "version": "1.0", "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": None, "normalizer": None, "post_processor": None, "decoder": None,
        "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>", "mask_token": "<mask>"}))
    tokenizer = tokenizers.load(tmp_path)

    assert (tokenizer.mask, tokenizer.eos) == (2, 1)
    assert tokenizer.encode("the <mask> the").tolist() == [5, 3, 4, 5]
    encoded = tokenizer.encode_with_starts(["the", "the <mask>", "the"])
    assert encoded.tokens.tolist() == [5, 5, 3, 4, 5] and encoded.counts.tolist() == [1, 3, 1]
    assert encoded.starts.tolist() == [0, 4, 8, 9, 15]
    assert tokenizer.starts_word.all()


def broken(case, published, folder):
    folder.mkdir()
    bert, gpt2 = published / "bert" / "vocab.txt", published / "gpt2" / "vocab.json"
    if case == "nothing":
        return folder
    if case == "half a json":
        (folder / "tokenizer.json").write_text('{"model": {')
    elif case == "no model":
        (folder / "tokenizer.json").write_text('{"a": 1}')
    elif case == "a model of no kind":
        (folder / "tokenizer.json").write_text('{"model": {"type": "Nothing"}, "added_tokens": []}')
    elif case == "no merges":
        (folder / "vocab.json").write_bytes(gpt2.read_bytes())
    elif case == "wrong merges":
        (folder / "vocab.json").write_bytes(gpt2.read_bytes())
        (folder / "merges.txt").write_text("#version: 0.2\nĠ t\nno such merge\n")
    elif case == "not a vocabulary":
        (folder / "vocab.txt").write_text("a\nb\n")
    elif case == "latin-1":
        (folder / "vocab.txt").write_bytes("[UNK]\n[SEP]\né\n".encode("latin-1"))
    elif case == "half a model":
        (folder / "spiece.model").write_bytes((published / "llama" / "tokenizer.model").read_bytes()[:5_000])
    elif case == "two models":
        for name in "ab":
            (folder / f"{name}.model").write_bytes(b"")
    elif case == "shifted ids":
        t5(folder, published, tokenizer_class="XLMRobertaTokenizer")
    elif case == "no such token":
        (folder / "vocab.txt").write_bytes(bert.read_bytes())
        (folder / "special_tokens_map.json").write_text('{"mask_token": "<nowhere>"}')
    elif case == "no end":
        (folder / "vocab.txt").write_text("[UNK]\nword\n")
    elif case == "unknown format":
        (folder / "vocab.xml").write_text("")
        return folder / "vocab.xml"
    return folder


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("nothing", "holds no tokenizer; expected tokenizer.json, vocab.txt"),
        ("half a json", "tokenizer.json is damaged: it is not JSON"),
        ("no model", "has no model"),
        ("a model of no kind", "cannot read it"),
        ("no merges", "merges.txt is missing"),
        ("wrong merges", "merge 2 of merges.txt, 'no such merge'"),
        ("not a vocabulary", r"has no \[UNK\]"),
        ("latin-1", "is not UTF-8"),
        ("half a model", "not a sentencepiece model"),
        ("two models", "several models: name one"),
        ("shifted ids", "XLMRobertaTokenizer cannot be loaded from these files alone"),
        ("no such token", "'<nowhere>' as mask_token"),
        ("no end", "no end-of-text token"),
        ("unknown format", "has an unknown format"),
    ],
)
def test_errors_in_loading_are_one_line(case, message, published, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        tokenizers.load(broken(case, published, tmp_path / "x"))

    assert "\n" not in str(caught.value) and str(caught.value).startswith("config.data.tokenizer.path: ")


def test_sentences_are_split_at_their_borders_if_the_tokenizer_lowercases(published, golden, tmp_path):
    config = TokenizerConfig(path=str(published / "bert"))
    tokens = store.prepare(
        tmp_path, SourceConfig(path=str(golden / "text.txt"), document="paragraph"), CleanConfig(), config
    )
    starts = tokens.sentence_starts

    first = tokens.tokenizer.decode(tokens.read(int(starts[0]), int(starts[1])))
    second = tokens.tokenizer.decode(tokens.read(int(starts[1]), int(starts[2])))

    assert first == "the lighthouse keeper polished a sack of barley although the wind was rising."
    assert second.startswith("when the tide was low,") and second.endswith(".")
    assert tokens.tokens - tokens.documents == sum(
        len(tokens.tokenizer.encode(part.strip("\n"))) for part in (golden / "text.txt").read_text().split("\n\n")
    )
    lengths = tokens.tokenizer.bytes_per_id(tokens.bytes, tokens.tokens - tokens.documents)
    assert lengths[tokens.read(0, tokens.tokens)].sum() == pytest.approx(tokens.bytes)
