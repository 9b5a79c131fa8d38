"""Architectures as data: each function returns the configuration tree of a paper's model in one of its sizes.

To add one, write a function in the file of its family, and add a line to `PRESETS`.
"""

from __future__ import annotations

from lm_jax.models.presets import (
    bart,
    bert,
    bloom,
    deberta,
    eleuther,
    falcon,
    gemma,
    gopher,
    gpt,
    llama,
    mistral,
    modernbert,
    mpt,
    opt,
    palm,
    qwen,
    t5,
    transformer,
    xlnet,
)
from lm_jax.models.presets.common import Preset

PRESETS: dict[str, Preset] = {
    # Encoders.
    "bert": Preset(bert.bert, bert.SIZES, "arXiv:1810.04805", 30522),
    "roberta": Preset(bert.roberta, bert.ROBERTA, "arXiv:1907.11692", 50265),
    "albert": Preset(bert.albert, bert.ALBERT, "arXiv:1909.11942", 30000),
    "distilbert": Preset(bert.distilbert, bert.DISTILBERT, "arXiv:1910.01108", 30522),
    "electra": Preset(bert.electra, bert.ELECTRA, "arXiv:2003.10555", 30522),
    "electra_generator": Preset(bert.electra_generator, bert.GENERATOR, "arXiv:2003.10555", 30522),
    "xlnet": Preset(xlnet.xlnet, xlnet.SIZES, "arXiv:1906.08237", 32000),
    "deberta": Preset(deberta.deberta, deberta.SIZES, "arXiv:2111.09543", 128100),
    "modernbert": Preset(modernbert.modernbert, modernbert.SIZES, "arXiv:2412.13663", 50368),
    # Decoders.
    "gpt": Preset(gpt.gpt, gpt.GPT, "Radford et al. 2018", 40478),
    "gpt2": Preset(gpt.gpt2, gpt.SIZES, "Radford et al. 2019", 50257),
    "gpt3": Preset(gpt.gpt3, gpt.GPT3, "arXiv:2005.14165", 50257),
    "gpt_neo": Preset(eleuther.gpt_neo, eleuther.NEO, "Black et al. 2021", 50257),
    "gptj": Preset(eleuther.gptj, eleuther.GPTJ, "Wang and Komatsuzaki 2021", 50400),
    "gpt_neox": Preset(eleuther.gpt_neox, eleuther.NEOX, "arXiv:2204.06745", 50432),
    "pythia": Preset(eleuther.pythia, eleuther.PYTHIA, "arXiv:2304.01373", 50304),
    "opt": Preset(opt.opt, opt.SIZES, "arXiv:2205.01068", 50272),
    "bloom": Preset(bloom.bloom, bloom.SIZES, "arXiv:2211.05100", 250880),
    "falcon": Preset(falcon.falcon, falcon.SIZES, "arXiv:2311.16867", 65024),
    "mpt": Preset(mpt.mpt, mpt.SIZES, "MosaicML 2023", 50432),
    "palm": Preset(palm.palm, palm.SIZES, "arXiv:2204.02311", 256000),
    "gopher": Preset(gopher.gopher, gopher.GOPHER, "arXiv:2112.11446", 32000),
    "chinchilla": Preset(gopher.chinchilla, gopher.CHINCHILLA, "arXiv:2203.15556", 32000),
    "llama": Preset(llama.llama, llama.SIZES, "arXiv:2302.13971, 2307.09288, 2407.21783", 32000),
    "mistral": Preset(mistral.mistral, mistral.MISTRAL, "arXiv:2310.06825", 32000),
    "mixtral": Preset(mistral.mixtral, mistral.MIXTRAL, "arXiv:2401.04088", 32000),
    "qwen2": Preset(qwen.qwen2, qwen.QWEN2, "arXiv:2407.10671", 151936),
    "qwen3": Preset(qwen.qwen3, qwen.QWEN3, "arXiv:2505.09388", 151936),
    "gemma": Preset(gemma.gemma, gemma.GEMMA, "arXiv:2403.08295", 256000),
    "gemma2": Preset(gemma.gemma2, gemma.GEMMA2, "arXiv:2408.00118", 256000),
    "gemma3": Preset(gemma.gemma3, gemma.GEMMA3, "arXiv:2503.19786", 262208),
    "t5_decoder": Preset(t5.t5_decoder, t5.DECODER, "arXiv:2204.05832", 32128),
    # Encoder-decoders.
    "transformer": Preset(transformer.transformer, transformer.SIZES, "arXiv:1706.03762", 37000),
    "t5": Preset(t5.t5, t5.SIZES, "arXiv:1910.10683", 32128),
    "t5_v1_0": Preset(t5.t5_v1_0, t5.V1_0, "arXiv:1910.10683", 32128),
    "mt5": Preset(t5.mt5, t5.MT5, "arXiv:2010.11934", 250112),
    "umt5": Preset(t5.umt5, t5.UMT5, "arXiv:2304.09151", 256384),
    "bart": Preset(bart.bart, bart.BART, "arXiv:1910.13461", 50265),
    "marian": Preset(bart.marian, bart.MARIAN, "arXiv:1804.00344", 58101),
    "pegasus": Preset(bart.pegasus, bart.PEGASUS, "arXiv:1912.08777", 96103),
}
