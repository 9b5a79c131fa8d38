"""A toy of sequence parallelism: one rule shards the length of activations between layers over `tensor`.

Korthikanti et al. 2022 (arXiv:2205.05198), section 4.2.2.
"""

import laws
import tiny

from lm_jax.objectives.causal import Causal, CausalConfig
from lm_jax.parallel.rules import Rules


def test_it_keeps_the_laws_and_divides_activations(tmp_path):
    rows = [{"tokens": laws.text(count, seed)} for seed, count in enumerate(tiny.LENGTHS)]
    config = tiny.config("gpt2", over={"stack.depth": 1, "embed.max_length": 8})
    objective = Causal(CausalConfig(), tiny.VOCABULARY, 8)
    case = laws.case(objective, {"model": config}, rows, rules=Rules(stream=("tensor",)))
    laws.check(case, tmp_path)
    compiled = case.compiled(case.layout(data=2, fsdp=2, tensor=2))[0].as_text()
    # Each device has 2 of 8 rows (data x fsdp) and 4 of 8 tokens (tensor).
    assert f"f32[2,4,{config.embed.width}]" in compiled
