"""What a transformer is made of, as frozen dataclasses. Presets fill them in; every field can be overridden."""

from __future__ import annotations

import dataclasses

from lm_jax.core.config import InputError

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitConfig:
    """How parameters are drawn.

    Attributes:
      name: `normal`, `truncated_normal` (cut at two standard deviations), `xavier_uniform`, or `fan_in`
        (normal with variance 1/fan_in).
      stddev: standard deviation of `normal` and `truncated_normal`.
      embed_stddev: standard deviation of embedding tables; None is `stddev`.
      position_stddev: the same of learned positions; None is as other tables.
      scale_residual: divide what writes to the residual stream by sqrt(2 depth) (GPT-2, section 2.3).
    """

    name: str = "normal"
    stddev: float = 0.02
    embed_stddev: float | None = None
    position_stddev: float | None = None
    scale_residual: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormConfig:
    """`layer` (Ba et al. 2016) or `rms` (Zhang and Sennrich 2019); `bias` is layer norm's only."""

    name: str = "layer"
    epsilon: float = 1e-5
    bias: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotaryConfig:
    """Rotary positions (Su et al. 2021): wavelengths from 2 pi to 2 pi theta over `fraction` of a head."""

    theta: float = 10000.0
    fraction: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class BucketConfig:
    """Relative position buckets (Raffel et al. 2020, section 2.1): one learned bias a bucket and head."""

    buckets: int = 32
    max_distance: int = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Attention as three free choices: mask, position, kernel.

    Attributes:
      heads: query heads.
      head_dim: width of a head; None is width // heads.
      kv_heads: key and value heads (grouped-query attention, Ainslie et al. 2023); None is `heads`.
      mask: `causal` or `full`.
      position: `none`, `rotary` or `buckets`; only the subtree of that name is read.
      kernel: `auto`, `dense` or `blockwise`.
      block: rows of queries per block of the blockwise kernel.
      scale: factor on the scores; None is head_dim ** -0.5, T5 has 1.
      bias: whether query, key and value have biases; `out_bias` the same for the output.
      dropout: rate on the attention probabilities.
    """

    heads: int = 8
    head_dim: int | None = None
    kv_heads: int | None = None
    mask: str = "causal"
    position: str = "none"
    rotary: RotaryConfig = RotaryConfig()
    buckets: BucketConfig = BucketConfig()
    kernel: str = "auto"
    block: int = 64
    scale: float | None = None
    bias: bool = True
    out_bias: bool = True
    dropout: float = 0.0

    def __post_init__(self):
        groups = self.kv_heads or self.heads
        if self.heads < 1 or self.heads % groups:
            raise InputError(f"attention.heads {self.heads} is not a positive multiple of attention.kv_heads {groups}")

    def head_width(self, width: int) -> int:
        """The width of one head in a model of `width`."""
        if self.head_dim is None and width % self.heads:
            raise InputError(
                f"embed.width {width} is not divisible by attention.heads {self.heads}; set attention.head_dim or use "
                f"width {width // self.heads * self.heads} or {(width // self.heads + 1) * self.heads}"
            )
        return self.head_dim or width // self.heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeedForwardConfig:
    """Position-wise layers; `gated` adds a second projection (Shazeer 2020), `width` None is 4 x embed.width."""

    width: int | None = None
    activation: str = "gelu"
    gated: bool = False
    bias: bool = True
    dropout: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """One layer: attention, cross-attention where `cross` is set, feed-forward.

    Attributes:
      norm_placement: `pre` (norm inside the residual branch) or `post` (norm of the sum).
      cross: attention over an encoder's output; its mask is always `full` and it has no positions.
      dropout: rate on each branch before it joins the residual stream.
    """

    attention: AttentionConfig = AttentionConfig()
    feedforward: FeedForwardConfig = FeedForwardConfig()
    norm: NormConfig = NormConfig()
    norm_placement: str = "pre"
    cross: AttentionConfig | None = None
    dropout: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackConfig:
    """`depth` blocks.

    Attributes:
      scan: `always` compiles one layer and loops over it, `never` unrolls, `auto` unrolls shallow stacks on a CPU.
      remat: what the backward pass computes again: `none`, `full` (everything), `dots` (all but matrix products).
    """

    depth: int = 2
    block: BlockConfig = BlockConfig()
    scan: str = "auto"
    remat: str = "none"

    def __post_init__(self):
        if self.depth < 1:
            raise InputError(f"stack.depth is {self.depth}; expected at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Token, position and segment embeddings.

    Attributes:
      vocab: rows of the token table; None is the tokenizer's size.
      width: width of the residual stream.
      positions: `none`, `learned` or `sinusoidal`; both of the latter are added to the tokens.
      max_length: rows of a position table: the longest input.
      types: rows of the table of token types (BERT's sentence A or B); 0 is no table.
      norm: normalise the sum (BERT).
      scale: multiply token embeddings by sqrt(width) (Vaswani et al. 2017, section 3.4).
    """

    vocab: int | None = None
    width: int = 128
    positions: str = "learned"
    max_length: int = 512
    types: int = 0
    norm: bool = False
    scale: bool = False
    dropout: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadoutConfig:
    """From hidden states to logits over the vocabulary.

    Attributes:
      tied: use the token embedding table (Press and Wolf 2017).
      bias: one bias per entry of the vocabulary.
      transform: dense, activation and norm before it (BERT's masked-LM head); empty or the activation's name.
      scale: multiply hidden states by width ** -0.5 first (T5 with a tied table).
    """

    tied: bool = True
    bias: bool = False
    transform: str = ""
    scale: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """An encoder or a decoder: what tells them apart is the mask of `stack.block.attention`.

    Attributes:
      kind: `encoder` (full mask) or `decoder` (causal mask).
      final_norm: normalise the last hidden state (pre-norm models).
      pair_classes: classes of the sentence-pair head on the pooled first token (BERT's next sentence: 2); 0 is no head.
      dtype: what the layers compute in; parameters are float32.
    """

    kind: str = "decoder"
    embed: EmbedConfig = EmbedConfig()
    stack: StackConfig = StackConfig()
    norm: NormConfig = NormConfig()
    final_norm: bool = True
    readout: ReadoutConfig = ReadoutConfig()
    pair_classes: int = 0
    init: InitConfig = InitConfig()
    dtype: str = "float32"

    def __post_init__(self):
        _check_dtype(self.dtype)
        expected = {"encoder": "full", "decoder": "causal"}.get(self.kind)
        if expected is None:
            raise InputError(f"config.model.kind is {self.kind!r}; expected encoder, decoder or encoder_decoder")
        if self.kind == "encoder" and self.stack.block.attention.mask == "causal":
            raise InputError("config.model.stack.block.attention.mask is 'causal' in an encoder; use 'full'")
        if self.kind == "decoder" and self.stack.block.attention.mask == "full":
            raise InputError("config.model.stack.block.attention.mask is 'full' in a decoder; use 'causal'")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig:
    """An encoder and a decoder that attends to it, over one vocabulary.

    `embed` describes both sides: they share its token table, and have position tables of their own.
    """

    kind: str = "encoder_decoder"
    embed: EmbedConfig = EmbedConfig()
    encoder: StackConfig = StackConfig()
    decoder: StackConfig = StackConfig()
    norm: NormConfig = NormConfig()
    final_norm: bool = True
    readout: ReadoutConfig = ReadoutConfig()
    init: InitConfig = InitConfig()
    dtype: str = "float32"

    def __post_init__(self):
        _check_dtype(self.dtype)
        if self.decoder.block.cross is None:
            raise InputError("config.model.decoder.block.cross is not set: a decoder without it never sees the encoder")
        if self.decoder.block.attention.mask == "full":
            raise InputError("config.model.decoder.block.attention.mask is 'full' in a decoder; use 'causal'")


ModelConfig = TransformerConfig | EncoderDecoderConfig

KINDS = {"encoder": TransformerConfig, "decoder": TransformerConfig, "encoder_decoder": EncoderDecoderConfig}


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise InputError(f"config.model.dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
