"""Fixtures of the tests of models."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def tables(repository):
    """Reference tables of positions beside the repository; without them, tests that need them are skipped."""
    path = repository.parent / "shared" / "parity" / "tables" / "tables.npz"
    if not path.is_file():
        pytest.skip("no ../shared/parity beside the repository")
    return np.load(path)
