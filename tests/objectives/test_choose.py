"""Units and runs of tokens to predict: what stays together, how much is chosen, and how long runs are."""

import dataclasses

import numpy as np
import pytest
import tiny

from lm_jax.core.config import InputError
from lm_jax.objectives import choose
from lm_jax.objectives.choose import ChooseConfig, Chooser

BEGINS = np.random.default_rng(0).random(1000) < 0.7
VOCABULARY = dataclasses.replace(tiny.VOCABULARY, starts_word=BEGINS)


def row(seed, length=128):
    """Tokens, which of them are candidates, and spans, some of which overlap."""
    rng = np.random.default_rng(seed)
    tokens, candidates = rng.integers(0, 1000, length), rng.random(length) < 0.97
    first = rng.integers(0, length - 6, length // 6)
    spans = np.stack([first, first + rng.integers(1, 6, len(first)), np.zeros(len(first), int)], 1)
    return tokens, candidates, spans


def units(unit, tokens, candidates, spans):
    """The units of a row as lists of positions, by a plain loop."""
    owner = np.full(len(tokens), -1)
    for number, (first, last, _) in enumerate(sorted(spans.tolist(), key=lambda span: (span[0], -span[1]))):
        if (owner[first:last] < 0).all() and not (owner[first:] >= 0).any():
            owner[first:last] = number
    lists = []
    for position in np.flatnonzero(candidates).tolist():
        follows = position > 0 and candidates[position - 1]
        joined = {
            "token": False,
            "word": not BEGINS[tokens[position]],
            "span": owner[position] >= 0 and owner[position] == owner[position - 1],
        }[unit]
        if follows and joined:
            lists[-1].append(position)
        else:
            lists.append([position])
    return lists


@pytest.mark.parametrize("run", choose.LENGTHS)
@pytest.mark.parametrize("unit", choose.UNITS)
def test_units_are_never_cut_and_the_limit_is_never_exceeded(unit, run):
    chooser = Chooser(ChooseConfig(unit=unit, run=run, longest=4), VOCABULARY)
    for seed in range(40):
        tokens, candidates, spans = row(seed)
        most = int(np.random.default_rng(seed).integers(1, 30))
        chosen = chooser(tokens, candidates, most, np.random.default_rng(seed), spans).positions
        assert (np.diff(chosen) > 0).all() and len(chosen) <= most
        inside = np.isin(np.arange(len(tokens)), chosen)
        for positions in units(unit, tokens, candidates, spans):
            assert inside[positions].all() or not inside[positions].any()
            # Every unit that would have fitted was tried.
            assert inside[positions].all() or len(positions) > most - len(chosen)
        assert not inside[~candidates].any()


@pytest.mark.parametrize(
    "run, longest, shares",
    [
        # Joshi et al. 2020, section 3.1; Lan et al. 2020, section 4.1; Yang et al. 2019, section 3.1.
        ("geometric", 10, [0.2 * 0.8**n / (1 - 0.8**10) for n in range(10)]),
        ("harmonic", 3, [6 / 11, 3 / 11, 2 / 11]),
        ("uniform", 5, [0.2] * 5),
    ],
)
def test_run_lengths_follow_the_distribution_of_their_paper(run, longest, shares):
    config = ChooseConfig(run=run, longest=longest)
    np.testing.assert_allclose(choose.lengths(config), shares)
    chooser, length, counts = Chooser(config, VOCABULARY), 40_000, np.zeros(longest + 1)
    for seed in range(50):
        runs = chooser(np.zeros(length, int), np.ones(length, bool), length // 50, np.random.default_rng(seed))
        counts += np.bincount(runs.stops - runs.starts, minlength=longest + 1)
    assert counts.sum() > 10_000
    # Tolerance: 4 standard errors, each at most 0.5 %; 2 % of the tokens are chosen, so that few runs meet another.
    np.testing.assert_allclose(counts[1:] / counts.sum(), shares, atol=0.02)


@pytest.mark.usefixtures("untyped")
def test_every_token_is_chosen_equally_often():
    counts, chooser = np.zeros(20), Chooser(ChooseConfig(), VOCABULARY)
    rng = np.random.default_rng(0)
    for _ in range(10_000):
        counts[chooser(np.zeros(20, int), np.ones(20, bool), 3, rng).positions] += 1
    # Tolerance: 5 standard errors of a share of 0.15.
    np.testing.assert_allclose(counts / 10_000, 0.15, atol=5 * (0.15 * 0.85 / 10_000) ** 0.5)


def test_a_row_whose_units_do_not_fit_gives_no_runs():
    chooser = Chooser(ChooseConfig(unit="span"), VOCABULARY)
    runs = chooser(np.zeros(4, int), np.ones(4, bool), 3, np.random.default_rng(0), np.array([[0, 4, 0]]))
    assert not len(runs.starts) and not len(runs.positions)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"choose\.words is 'pieces', but it is unknown which pieces"):
        Chooser(ChooseConfig(unit="word"), tiny.VOCABULARY)
    for config in (ChooseConfig(unit="letter"), ChooseConfig(run="long"), ChooseConfig(unit="word", words="none")):
        with pytest.raises(InputError, match=r"choose\.\w+ is '\w+'; expected one of"):
            Chooser(config, VOCABULARY)
