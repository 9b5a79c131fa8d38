"""Settings of attention as frozen dataclasses."""

from __future__ import annotations

import dataclasses

from lm_jax.core.config import InputError, nearest, setting

POSITIONS = ("none", "rotary", "buckets", "alibi", "transformer_xl", "disentangled")
DROPOUTS = ("probabilities", "output")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """Scaling of rotary wavelengths for inputs longer than those of pretraining (context extension).

    Attributes:
      name: `none`, `linear` (position interpolation, Chen et al. 2023, arXiv:2306.15595), `ntk` (a greater theta: the
        longest wavelength grows by `factor`, the shortest not at all), `dynamic` (NTK scaling that grows with the
        input), `llama3` (Dubey et al. 2024, arXiv:2407.21783, as in the released code), `yarn` (Peng et al. 2023,
        arXiv:2309.00071) or `longrope` (Ding et al. 2024, arXiv:2402.13753).
      factor: ratio of the extended length to `length`.
      length: context length of pretraining; all but `linear` and `ntk` need it.
      low, high: for `llama3`: wavelengths that fit less than `low` times into `length` are scaled, those that fit more
        than `high` times are not.
      slow, fast: for `yarn`: features of less than `slow` rotations in `length` are scaled, of more than `fast` not.
      whole: for `yarn`: round the indices of the features at these bounds to integers.
      near, far: for `longrope`: scaling factor of each pair of features, for inputs up to `length` and for longer ones.
      magnitude: factor on rotated queries and keys; None: 0.1 ln(factor) + 1 for `yarn` and
        sqrt(1 + ln(factor) / ln(length)) for `longrope`.
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
      interleaved: rotate pairs of neighbours (2i, 2i + 1) (GPT-J), not pairs across the two halves of a head (LLaMA).
    """

    theta: float = setting(10000.0, above=0)
    fraction: float = setting(1.0, above=0, at_most=1)
    interleaved: bool = False
    scaling: ScalingConfig = ScalingConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class BucketConfig:
    """Relative position buckets (Raffel et al. 2020, section 2.1): one learned bias per bucket and head.

    Attributes:
      max_distance: distance from which all positions share the last bucket.
      shared: one table for all layers (T5), not one in each (UMT5, Chung et al. 2023, arXiv:2304.09151).
    """

    buckets: int = setting(32, at_least=1)
    max_distance: int = setting(128, at_least=1)
    shared: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlibiConfig:
    """A penalty on distance with a slope per head (Press et al. 2022, arXiv:2108.12409).

    Attributes:
      exponent: the smallest slope is 2 ** -exponent: 8 in the paper.
      rounded: round slopes and their products with key positions to bfloat16, and multiply the products by the factor
        on the scores (Falcon's released code).
    """

    exponent: float = setting(8.0, above=0)
    rounded: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerXLConfig:
    """Relative positions with a key per distance (Dai et al. 2019, arXiv:1901.02860, section 3.3).

    Attributes:
      clamp: clip distances to [-clamp, clamp]; None: no limit.
      types: scores also depend on whether two tokens have the same type (XLNet, Yang et al. 2019, section 2.5).
      both_ways: the last half of a batch's rows hold reversed texts (XLNet's `bi_data`); their distances change sign.
    """

    clamp: int | None = None
    types: bool = False
    both_ways: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class DisentangledConfig:
    """Relative positions with their own keys and queries (He et al. 2020, arXiv:2006.03654, section 3.1).

    Attributes:
      buckets: number of buckets of relative positions, half of them per sign: exact when near, logarithmic when far
        (DeBERTa-v2); 0: each relative position has its own row.
      max_distance: distance from which all positions share the last bucket.
      content_to_position, position_to_content: whether scores include the term.
      share: project relative positions with the kernels of the content (DeBERTa-v3), not with separate ones.
      norm: normalise the table of positions with the block's norm.
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
                "an even number of buckets (0: no buckets) and a positive distance"
            )

    @property
    def span(self) -> int:
        """Rows of the table per sign of the relative position."""
        return self.buckets or self.max_distance

    @property
    def terms(self) -> int:
        """Number of terms in a score: content to content, and the enabled ones with positions."""
        return 1 + self.content_to_position + self.position_to_content


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Multi-head attention; mask, position and kernel are independent choices.

    Attributes:
      heads: query heads.
      head_dim: width of a head; None: width // heads.
      kv_heads: key and value heads (grouped-query attention, Ainslie et al. 2023; 1: multi-query, Shazeer 2019);
        None: `heads`.
      mask: `causal`, `full`, or `prefix` (causal, but all tokens attend to the prefix given by `Inputs.prefix`).
      window: local attention to the latest `window` keys including the query's own token, or with a full mask to
        `window` keys on either side; None: no limit.
      stride: sparse attention (Child et al. 2019, section 4.3) to every `stride`-th key counted from the query, in
        addition to the window; None: not strided.
      same_length: every query attends to the latest past + 1 keys at most, as many as the first query has, where past
        is the length of the `Past`. Decoders only.
      position: `none`, `rotary`, `buckets`, `alibi`, `transformer_xl` or `disentangled`; the settings of that name
        apply.
      kernel: `auto`, `dense`, `blockwise` (with `block` queries per block), `splash` (TPU) or `cudnn` (GPU).
      scale: factor on the scores; None: head_dim ** -0.5 (times terms ** -0.5 for `disentangled`); T5: 1.
      softcap: soft-cap scores to softcap * tanh(scores / softcap) (Gemma 2, arXiv:2408.00118, section 2).
      qk_norm: normalise each head's queries and keys before rotation (Henry et al. 2020, arXiv:2010.04245).
      convolution: width of a causal depthwise convolution over queries, keys and values (Primer, So et al. 2021,
        section 3.1: 3); 1: no convolution. Decoders only.
      clip: clip queries, keys and values to [-clip, clip] (MPT).
      bias, out_bias: whether the query, key and value projections and the output projection have biases.
      dropout: rate on the attention probabilities, or on what `dropout_on` names.
      dropout_on: `probabilities`, or `output`: the attended values of each head, before the output projection, which
        kernels that store no probabilities can serve.
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
    dropout_on: str = "probabilities"

    def __post_init__(self):
        if self.dropout_on not in DROPOUTS:
            raise InputError(
                f"attention.dropout_on is {self.dropout_on!r}; expected one of {', '.join(DROPOUTS)}"
                f"{nearest(self.dropout_on, DROPOUTS)}"
            )
        if self.position not in POSITIONS:
            raise InputError(f"attention.position is {self.position!r}; expected one of {', '.join(POSITIONS)}")
        groups = self.kv_heads or self.heads
        if self.heads < 1 or self.heads % groups:
            raise InputError(f"attention.heads {self.heads} is not a positive multiple of attention.kv_heads {groups}")
        if self.position == "disentangled" and groups != self.heads:
            raise InputError(
                f"attention.kv_heads is {groups} for {self.heads} heads; position 'disentangled' needs equal numbers"
            )
        if self.convolution < 1 or (self.convolution > 1 and self.mask == "full"):
            raise InputError(
                f"attention.convolution is {self.convolution} under the mask {self.mask!r}; expected 1 (no "
                "convolution), or more in a decoder"
            )
        if self.same_length and self.mask == "full":
            raise InputError("attention.same_length is set under the mask 'full', but is for decoders; set it to False")
        if self.transformer_xl.clamp is not None and self.transformer_xl.clamp <= 0:
            clamp = self.transformer_xl.clamp
            raise InputError(f"attention.transformer_xl.clamp is {clamp}; expected more than 0, or None for no limit")
        for name in ("window", "stride", "softcap", "clip"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"attention.{name} is {value}; expected more than 0, or None to turn it off")

    def head_width(self, width: int) -> int:
        """The width of one head in a model of `width`."""
        if self.head_dim is None and width % self.heads:
            raise InputError(
                f"embed.width {width} is not divisible by attention.heads {self.heads}; set attention.head_dim or use "
                f"width {width // self.heads * self.heads} or {(width // self.heads + 1) * self.heads}"
            )
        return self.head_dim or width // self.heads
