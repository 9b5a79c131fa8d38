"""A step that needs too much memory is a result; other failures of the compiler are errors."""

import jax
import jax.numpy as jnp
import pytest

from lm_jax.core.config import InputError
from lm_jax.plan import compiling

MESSAGES = {
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
    "temporaries (40.52G) exceeds available HBM (15.75G). HLO module: jit_step.": (40.52, 15.75),
    "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 23.84G of 15.75G hbm. "
    "Exceeded hbm capacity by 8.09G.": (23.84, 15.75),
    "INTERNAL: Mosaic failed to compile": None,
}


@pytest.mark.parametrize("message", MESSAGES)
def test_the_message_says_how_much_was_needed(message):
    expected = MESSAGES[message]
    sizes = compiling.too_large(message)
    assert sizes == (expected and tuple(round(size * 2**30) for size in expected))


class Failing:
    """A step whose compilation fails with a message."""

    def __init__(self, message):
        self.message = message

    def __call__(self):
        raise AssertionError("a plan runs no step")

    def lower(self, *arguments):
        return self

    def compile(self, options):
        raise jax.errors.JaxRuntimeError(self.message)


def test_too_little_memory_is_a_result_without_a_program():
    result = compiling.compile_step(Failing(next(iter(MESSAGES))))
    assert result.memory is None and result.text == ""
    assert (result.needed_bytes, result.limit_bytes) == (round(40.52 * 2**30), round(15.75 * 2**30))


def test_another_failure_is_one_line():
    with pytest.raises(InputError, match="refused this step: INTERNAL: Mosaic failed to compile"):
        compiling.compile_step(Failing("INTERNAL: Mosaic\nfailed to compile"))


def test_a_step_that_fits_has_text_and_memory_and_leaves_the_cache_on():
    before = jax.config.jax_enable_compilation_cache
    result = compiling.compile_step(jax.jit(lambda x: x @ x), jax.ShapeDtypeStruct((8, 8), jnp.float32))
    assert "ENTRY" in result.text and result.needed_bytes >= 2 * 8 * 8 * 4 and result.limit_bytes is None
    assert jax.config.jax_enable_compilation_cache == before
