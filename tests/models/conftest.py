"""What the tests of models share."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def tables(repository):
    """Reference tables of positions beside the repository; a test that needs them is skipped where there are none."""
    path = repository.parent / "shared" / "parity" / "tables" / "tables.npz"
    if not path.is_file():
        pytest.skip("no ../shared/parity beside the repository")
    return np.load(path)
