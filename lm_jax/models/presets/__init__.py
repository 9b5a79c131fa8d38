"""Architectures as data: each function gives the full configuration tree of a paper's model in one of its sizes.

Adding one: a function in the file of its family, and a line in `PRESETS`.
"""

from __future__ import annotations

from lm_jax.models.presets import bert, deberta, gpt, llama, t5, transformer, xlnet

PRESETS = {
    "transformer": (transformer.transformer, transformer.SIZES),
    "bert": (bert.bert, bert.SIZES),
    "gpt2": (gpt.gpt2, gpt.SIZES),
    "t5": (t5.t5, t5.SIZES),
    "llama": (llama.llama, llama.SIZES),
    "xlnet": (xlnet.xlnet, xlnet.SIZES),
    "deberta": (deberta.deberta, deberta.SIZES),
}
