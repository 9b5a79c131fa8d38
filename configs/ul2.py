"""UL2: encoder-decoders and decoders trained on a mixture of seven denoisers, each with a mode token.

Paper:    Tay et al. 2022, "UL2: Unifying language learning paradigms" (arXiv:2205.05131).
Hardware: two CPU cores for tiny, a TPU v5e-16 or 8 GPUs for base and decoder, a TPU v4-512 for 20b.
Command:  lm-jax train --config=ul2:tiny --workdir=/tmp/ul2
          lm-jax train --config=ul2:base --config.data.path='corpus/*.jsonl.zst' --workdir=/mnt/bucket/ul2
Expected: tiny: val/loss 4.84 nats per target token, from 4.30 (r3) to 5.00 (x64half); other sizes: not measured.
"""

import ml_collections

from lm_jax.models.presets import llama, t5

# The release writes [NLU], [S2S] and [NLG] for the paper's [R], [S] and [X] (section 3.1.3).
MODES = ("[NLU]", "[S2S]", "[NLG]")
# Table 1: the S-denoiser, whose target is a quarter of the text on average, the two R- and the four X-denoisers.
PARTS = dict(
    s=dict(name="prefix", prefix=dict(mode="[S2S]", rate=0.25)),
    r3=dict(name="span", span=dict(mode="[NLU]", rate=0.15, mean_span=3.0)),
    r8=dict(name="span", span=dict(mode="[NLU]", rate=0.15, mean_span=8.0)),
    x3=dict(name="span", span=dict(mode="[NLG]", rate=0.5, mean_span=3.0)),
    x8=dict(name="span", span=dict(mode="[NLG]", rate=0.5, mean_span=8.0)),
    x64=dict(name="span", span=dict(mode="[NLG]", rate=0.15, mean_span=64.0)),
    x64half=dict(name="span", span=dict(mode="[NLG]", rate=0.5, mean_span=64.0)),
)
# Section 3.1.2: all seven in about equal shares, which is the default.
OBJECTIVE = dict(name="mixture", mixture=dict(parts=PARTS))


def get_config(variant: str = "tiny") -> ml_collections.ConfigDict:
    """Return the recipe of a variant."""
    return VARIANTS[variant]()


def tiny() -> ml_collections.ConfigDict:
    """Train for a minute on a laptop, on the documentation of the installed Python; unsourced numbers are ours."""
    config = ml_collections.ConfigDict()
    config.objective = OBJECTIVE
    config.model = t5.t5("tiny")
    # The denoiser of half the text in spans of three has 15 spans in 93 tokens.
    tokenizer = dict(kind="unigram", vocab_at_most=1024, sentinels=16, add=MODES)
    config.data = dict(length=64, batch=16, tokenizer=tokenizer)
    config.optimizer = dict(learning_rate=3e-3, schedule=dict(name="cosine", warmup=0.1))
    config.update(train=dict(steps=200), evaluate=dict(every=100, batches=20), checkpoint=dict(every=100))
    return config


def published(model: ml_collections.ConfigDict, length: int, batch: int, steps: int) -> ml_collections.ConfigDict:
    """Train on rows of 512 tokens in and at most 513 out; of a decoder, on rows of 1,024 tokens."""
    config = ml_collections.ConfigDict()
    config.objective = OBJECTIVE
    config.model = model
    config.model.dtype = "bfloat16"
    config.data = dict(
        length=length,
        batch=batch,
        validation=0.005,
        # T5's vocabulary (section 4), with enough sentinels for the denoiser of half the text in spans of three.
        tokenizer=dict(kind="unigram", vocab=32_128, sentinels=128, add=MODES),
    )
    config.optimizer = dict(
        name="adafactor",  # section 4
        learning_rate=0.01,  # T5, section 3.1.2: 1 / sqrt(10,000) for 10,000 steps, then 1 / sqrt(step)
        schedule=dict(name="rsqrt", warmup=10_000),  # ours: a linear warmup to 0.01
        clip=0.0,
    )
    config.train = dict(steps=steps)
    config.update(mesh=dict(data=1, fsdp=-1), evaluate=dict(every=5000, batches=50), checkpoint=dict(every=5000))
    return config


def encoder_decoder(size: str) -> ml_collections.ConfigDict:
    """Return T5 1.1 with SwiGLU (section 4); the sizes are those of T5 1.1."""
    model = t5.t5(size)
    for side in (model.encoder, model.decoder):
        side.block.feedforward.activation = "silu"
    return model


def of_20b() -> ml_collections.ConfigDict:
    """Return the 20B model: section 5.1 and the released configuration."""
    model = encoder_decoder("xxl")
    for side in (model.encoder, model.decoder):
        side.depth = 32
        side.block.feedforward.width = 16_384
        side.block.attention.update(heads=16, head_dim=256)
        side.remat = "full"
    model.decoder.block.cross.update(heads=16, head_dim=256)
    model.readout.update(tied=True, scale=True)
    return model


def decoder() -> ml_collections.ConfigDict:
    """Return a decoder with the width and depth of T5's base, whose tokens attend to the whole source; ours."""
    model = llama.llama("tiny")
    model.embed.width, model.stack.depth = 768, 12
    model.stack.block.feedforward.width = 2048
    model.stack.block.attention.update(heads=12, kv_heads=12, mask="prefix")
    return model


VARIANTS = {
    "tiny": tiny,
    # Section 4: 512 tokens in and 512 out, batches of 128, 500,000 steps.
    "base": lambda: published(encoder_decoder("base"), length=512, batch=128, steps=500_000),
    "decoder": lambda: published(decoder(), length=1024, batch=128, steps=500_000),
    # Section 5.1: batches of 1,024, one trillion tokens.
    "20b": lambda: published(of_20b(), length=512, batch=1024, steps=2_000_000),
}
