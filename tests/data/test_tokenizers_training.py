import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from lm_jax.data import tokenizers
from lm_jax.data.tokenizers import TokenizerConfig, learners, training
from lm_jax.data.tokenizers.estimates import LISTENERS

LEARNED = ("unigram", "bpe", "wordpiece", "byte_bpe")


@pytest.fixture(scope="module")
def corpus(golden):
    return (golden / "text.txt").read_text()[:12_000]


def letters(count):
    return "".join(random.Random(0).choices("ACGT", k=count))


@pytest.mark.parametrize("kind", tokenizers.KINDS)
@pytest.mark.parametrize(
    "text",
    [
        "Before sunrise, the old weaver mended a clock.\n" * 4,
        "你好，世界。今天天气很好！\n" * 3,
        "word " * 40,
        "😀😁😂 ☕️",
        "a",
    ],
    ids=["english", "chinese", "one word", "emoji", "one letter"],
)
def test_a_vocabulary_is_as_large_as_the_text_allows(kind, text):
    tokenizer = tokenizers.train(TokenizerConfig(kind=kind, sentinels=3), [text])

    exact = tokenizers.train(TokenizerConfig(kind=kind, sentinels=3, vocab=tokenizer.vocab_size), [text])
    assert exact.fingerprint == tokenizer.fingerprint
    assert tokenizer.vocab_size < TokenizerConfig().vocab_at_most
    assert not tokenizer.lossless or tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", LEARNED)
def test_a_vocabulary_is_never_larger_than_the_bound(kind, corpus):
    tokenizer = tokenizers.train(TokenizerConfig(kind=kind, sentinels=3, vocab_at_most=400), [corpus])

    exact = tokenizers.train(TokenizerConfig(kind=kind, sentinels=3, vocab=400, vocab_at_most=9), [corpus])
    assert exact.fingerprint == tokenizer.fingerprint
    assert tokenizer.vocab_size == 400


def test_training_in_a_process_gives_the_same_tokenizer_and_reports_progress(corpus, monkeypatch, capfd):
    for kind in LEARNED:
        config = TokenizerConfig(kind=kind, vocab=400)
        in_line = tokenizers.train(config, [corpus])
        calls: list = []
        with monkeypatch.context() as patch:
            patch.setattr(training, "_IN_LINE", 0)
            isolated = tokenizers.train(config, [corpus], progress=lambda *call, calls=calls: calls.append(call))

        assert isolated.fingerprint == in_line.fingerprint
        assert {(stage, total) for stage, _, total in calls} == {(training.STAGE, 1000)}
        done = [done for _, done, _ in calls]
        assert done == sorted(done) and 200 <= done[-1] <= 1000
    # The libraries never write to the user's terminal.
    assert capfd.readouterr() == ("", "")


def test_wordpiece_training_skips_words_too_long_to_encode(monkeypatch):
    monkeypatch.setattr(training, "_IN_LINE", 1_000_000)
    config = TokenizerConfig(kind="wordpiece", character_coverage=1.0)
    started = time.monotonic()

    tokenizer = tokenizers.train(config, [letters(40_000) * 5 + " a word or a word"])

    # To merge pairs within the long word would take 20 seconds, because the time is quadratic in its length.
    assert time.monotonic() - started < 5
    assert {"a", "##c", "word"} <= {tokenizer.piece(token) for token in range(tokenizer.vocab_size)}
    longest = tokenizers.train(TokenizerConfig(kind="wordpiece"), [f"{'ab' * 50} " * 3])
    assert len(longest.encode("ab" * 50)) == 1 and longest.encode("ab" * 50) != longest.unk
    assert longest.encode("ab" * 50 + "a").tolist() == [longest.unk]


@pytest.mark.parametrize("kind", LEARNED)
def test_time_to_encode_is_linear_in_the_text(kind, corpus):
    tokenizer = tokenizers.train(TokenizerConfig(kind=kind), [corpus])

    def seconds(text):
        # CPU time, because other processes run at the same time.
        started = time.process_time()
        tokenizer.encode_with_starts([text])
        return time.process_time() - started

    for text in (letters(40_000), "a" * 40_000, " " * 40_000):
        # Four times the text takes 4 times as long if linear, 16 times if quadratic; 50 ms are measurement noise.
        assert min(seconds(text) for _ in range(3)) < 10 * min(seconds(text[:10_000]) for _ in range(3)) + 0.05


def test_estimates_follow_the_output_of_the_libraries():
    config = TokenizerConfig(vocab=1000)
    unigram = LISTENERS["unigram"](config)
    lines = [b"Initialized 9000 seed pieces", b"EM sub_iter=0 size=1950 obj=9", b"EM sub_iter=1 size=1900 obj=8",
             b"EM sub_iter=0 size=1425 obj=8", b"nothing of interest", b"EM sub_iter=1 size=1066 obj=8"]  # fmt: skip
    shares = [unigram(line) for line in lines]

    assert shares[4] is None and shares[5] == 1
    assert shares[:4] == sorted(shares[:4]) and 0 < shares[0] and shares[3] < 1
    merges = b'{"stage":"Compute merges","current":%d,"total":100}'
    byte_bpe = LISTENERS["byte_bpe"](config)
    assert byte_bpe(merges % 0) == pytest.approx(0.4) and byte_bpe(merges % 100) == 1
    assert LISTENERS["bpe"](config)(b"Merged: freq=13 merges=1500 piece=qual") == 1
    assert byte_bpe(b"") is None and byte_bpe(b"[1]") is None and byte_bpe(b'{"stage": "other"}') is None


INTERRUPTED = """
    from lm_jax.data import tokenizers
    def progress(stage, done, total):
        print(stage, flush=True)
    config = tokenizers.TokenizerConfig(kind={kind!r}, vocab=2000)
    tokenizers.train(config, [{text}], progress=progress)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", LEARNED)
def test_interrupting_a_training_ends_it_at_once(kind, repository):
    unbroken = "''.join(__import__('random').choices('ACGT', k=6_000_000))"
    text = "'word ' * 4_000_000" if kind == "wordpiece" else unbroken
    command = [sys.executable, "-c", textwrap.dedent(INTERRUPTED).format(kind=kind, text=text)]
    process = subprocess.Popen(
        command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout.readline()
    time.sleep(1)
    assert process.poll() is None

    started = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=60)[1]

    assert time.monotonic() - started < 2
    assert process.returncode == -signal.SIGINT and error.count(b"Traceback") == 1


def test_unigram_trains_on_a_sample_of_text_without_words():
    unbroken, words = "ACGT" * 1000, "a line of words"
    chunks = [*[unbroken] * 300, words, *[unbroken] * 100]
    limited = learners._limit_unbroken(chunks)
    assert limited.count(words) == 1 and limited.count(unbroken) == learners._UNBROKEN // 4000
    assert learners._limit_unbroken(chunks[:100]) == chunks[:100]
