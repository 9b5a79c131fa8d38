"""What attention is made of, as frozen dataclasses: mask, position and kernel are three free choices."""

from __future__ import annotations

import dataclasses

from lm_jax.core.config import InputError, setting

POSITIONS = ("none", "rotary", "buckets", "alibi", "transformer_xl", "disentangled")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """How rotary angles are stretched beyond the length that a model was first trained with.

    Attributes:
      name: `none`, `linear` (position interpolation, Chen et al. 2023, arXiv:2306.15595), `ntk` (a greater theta: the
        slowest wave is stretched by `factor` and the fastest not at all), `dynamic` (the same, growing with the input),
        `llama3` (Dubey et al. 2024, arXiv:2407.21783, as in the released code), `yarn` (Peng et al. 2023,
        arXiv:2309.00071) or `longrope` (Ding et al. 2024, arXiv:2402.13753).
      factor: how many times longer.
      length: the length that the model was first trained with; all but `linear` and `ntk` need it.
      low, high: of `llama3`: waves that fit less than `low` times into `length` are stretched, those that fit more than
        `high` times are not.
      slow, fast: of `yarn`: the same bounds, in turns within `length`.
      whole: of `yarn`: whether the features at the bounds are rounded to whole ones.
      near, far: of `longrope`: what each pair of features is stretched by, in inputs up to `length` and in longer ones.
      magnitude: what queries and keys are multiplied by; None is 0.1 ln(factor) + 1 in `yarn` and
        sqrt(1 + ln(factor) / ln(length)) in `longrope`.
    """

    name: str = "none"
    factor: float = 1.0
    length: int | None = None
    low: float = 1.0
    high: float = 4.0
    slow: float = 1.0
    fast: float = 32.0
    whole: bool = True
    near: tuple[float, ...] = ()
    far: tuple[float, ...] = ()
    magnitude: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotaryConfig:
    """Rotary positions (Su et al. 2021): wavelengths from 2 pi to 2 pi theta over `fraction` of a head.

    Attributes:
      interleaved: whether neighbours (2i, 2i + 1) turn together (GPT-J), or the two halves of a head (LLaMA).
    """

    theta: float = setting(10000.0, above=0)
    fraction: float = setting(1.0, above=0, at_most=1)
    interleaved: bool = False
    scaling: ScalingConfig = ScalingConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class BucketConfig:
    """Relative position buckets (Raffel et al. 2020, section 2.1): one learned bias a bucket and head.

    Attributes:
      shared: one table for all layers (T5), or one in each (UMT5, Chung et al. 2023, arXiv:2304.09151).
    """

    buckets: int = setting(32, at_least=1)
    max_distance: int = setting(128, at_least=1)
    shared: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlibiConfig:
    """A penalty on distance (Press et al. 2022, arXiv:2108.12409), with a slope of its own for each head.

    Attributes:
      exponent: slopes go down to 2 ** -exponent: 8 in the paper.
      rounded: slopes, and they times the key's place, are rounded to bfloat16 and then scaled as the scores are
        (Falcon's released code).
    """

    exponent: float = setting(8.0, above=0)
    rounded: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerXLConfig:
    """Queries meet the distance of a key as another key (Dai et al. 2019, arXiv:1901.02860, section 3.3).

    Attributes:
      clamp: larger distances count as this one; None is no limit.
      types: scores also tell pairs of one token type from others (XLNet, Yang et al. 2019, section 2.5).
      both_ways: the last half of the rows of a batch holds its texts backwards (XLNet's `bi_data`): there, distances
        have the other sign.
    """

    clamp: int | None = None
    types: bool = False
    both_ways: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class DisentangledConfig:
    """Relative positions with keys and queries of their own (He et al. 2020, arXiv:2006.03654, section 3.1).

    Attributes:
      buckets: of relative positions, half of them before the query: exact when near, logarithmic when far (DeBERTa-v2);
        0 gives each relative position its own.
      max_distance: the relative position from which on all share the last bucket.
      content_to_position, position_to_content: which of the two terms the scores have.
      share: positions use the projections of the content (DeBERTa-v3), or have their own.
      norm: normalise the table of positions, with the block's norm.
    """

    buckets: int = 256
    max_distance: int = 512
    content_to_position: bool = True
    position_to_content: bool = True
    share: bool = True
    norm: bool = True

    def __post_init__(self):
        if self.buckets < 0 or self.buckets % 2 or self.max_distance < 1:
            raise InputError(
                f"attention.disentangled has {self.buckets} buckets up to a distance of {self.max_distance}; expected "
                "an even number of buckets, 0 for none, and a positive distance"
            )

    @property
    def span(self) -> int:
        """Rows of the table for relative positions of either sign."""
        return self.buckets or self.max_distance

    @property
    def terms(self) -> int:
        """How many products are summed in a score: content with content, and those with positions."""
        return 1 + self.content_to_position + self.position_to_content


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Attention as three free choices: mask, position, kernel.

    Attributes:
      heads: query heads.
      head_dim: width of a head; None is width // heads.
      kv_heads: key and value heads (grouped-query attention, Ainslie et al. 2023; 1 is multi-query, Shazeer 2019);
        None is `heads`.
      mask: `causal`, `full`, or `prefix` (causal, but all see the prefix that `Inputs.prefix` gives).
      window: local attention: the latest `window` keys, the query's own among them, or with a full mask `window` keys
        on either side; None is no limit.
      stride: sparse attention (Child et al. 2019, section 4.3): every `stride`-th key counted from the query, beside
        the window; None is no such.
      same_length: no query sees more keys than the first one does, which are its own and those of earlier calls
        (`Past`). Decoders only.
      position: `none`, `rotary`, `buckets`, `alibi`, `transformer_xl` or `disentangled`; only the subtree of that name
        is read.
      kernel: `auto`, `dense` or `blockwise`.
      block: rows of queries per block of the blockwise kernel.
      scale: factor on the scores; None is head_dim ** -0.5 (and terms ** -0.5 where `disentangled` sums several), T5
        has 1.
      softcap: scores are bent to softcap * tanh(scores / softcap) (Gemma 2, arXiv:2408.00118, section 2).
      qk_norm: normalise every head's queries and keys, before rotary angles (Henry et al. 2020, arXiv:2010.04245).
      convolution: queries, keys and values mix with the `convolution` - 1 tokens before (Primer, So et al. 2021,
        section 3.1: 3); 1 is none. Decoders only.
      clip: queries, keys and values are cut to [-clip, clip] (MPT).
      bias: whether query, key and value have biases; `out_bias` the same for the output.
      dropout: rate on the attention probabilities.
    """

    heads: int = setting(8, at_least=1)
    head_dim: int | None = setting(None, at_least=1)
    kv_heads: int | None = setting(None, at_least=1)
    mask: str = "causal"
    window: int | None = None
    stride: int | None = None
    same_length: bool = False
    position: str = "none"
    rotary: RotaryConfig = RotaryConfig()
    buckets: BucketConfig = BucketConfig()
    alibi: AlibiConfig = AlibiConfig()
    transformer_xl: TransformerXLConfig = TransformerXLConfig()
    disentangled: DisentangledConfig = DisentangledConfig()
    kernel: str = "auto"
    block: int = setting(64, at_least=1)
    scale: float | None = None
    softcap: float | None = setting(None, above=0)
    qk_norm: bool = False
    convolution: int = 1
    clip: float | None = setting(None, above=0)
    bias: bool = True
    out_bias: bool = True
    dropout: float = setting(0.0, at_least=0, below=1)

    def __post_init__(self):
        if self.position not in POSITIONS:
            raise InputError(f"attention.position is {self.position!r}; expected one of {', '.join(POSITIONS)}")
        groups = self.kv_heads or self.heads
        if self.heads < 1 or self.heads % groups:
            raise InputError(f"attention.heads {self.heads} is not a positive multiple of attention.kv_heads {groups}")
        if self.position == "disentangled" and groups != self.heads:
            raise InputError(
                f"attention.kv_heads is {groups} for {self.heads} heads; position 'disentangled' needs one for each"
            )
        if self.convolution < 1 or (self.convolution > 1 and self.mask == "full"):
            raise InputError(
                f"attention.convolution is {self.convolution} under the mask {self.mask!r}; expected 1 (none), or more "
                "in a decoder"
            )
        if self.same_length and self.mask == "full":
            raise InputError("attention.same_length is set under the mask 'full'; it is for decoders: leave it False")
        if self.transformer_xl.clamp is not None and self.transformer_xl.clamp <= 0:
            clamp = self.transformer_xl.clamp
            raise InputError(f"attention.transformer_xl.clamp is {clamp}; expected more than 0, or None for none")
        for name in ("window", "stride", "softcap", "clip"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"attention.{name} is {value}; expected more than 0, or None for none")

    def head_width(self, width: int) -> int:
        """The width of one head in a model of `width`."""
        if self.head_dim is None and width % self.heads:
            raise InputError(
                f"embed.width {width} is not divisible by attention.heads {self.heads}; set attention.head_dim or use "
                f"width {width // self.heads * self.heads} or {(width // self.heads + 1) * self.heads}"
            )
        return self.head_dim or width // self.heads
