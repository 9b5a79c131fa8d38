"""Settings of a transformer as frozen dataclasses; presets fill them in, and every field can be overridden."""

from __future__ import annotations

import dataclasses

from lm_jax.core.config import InputError, Tree, lookup, replace_fields, setting

# Re-exported: presets import all settings from this module.
from lm_jax.models.attention.config import AlibiConfig as AlibiConfig
from lm_jax.models.attention.config import AttentionConfig as AttentionConfig
from lm_jax.models.attention.config import BucketConfig as BucketConfig
from lm_jax.models.attention.config import DisentangledConfig as DisentangledConfig
from lm_jax.models.attention.config import RotaryConfig as RotaryConfig
from lm_jax.models.attention.config import ScalingConfig as ScalingConfig
from lm_jax.models.attention.config import TransformerXLConfig as TransformerXLConfig
from lm_jax.models.feedforward.config import ExpertsConfig as ExpertsConfig
from lm_jax.models.feedforward.config import FeedForwardConfig as FeedForwardConfig
from lm_jax.models.task import TaskHeadConfig as TaskHeadConfig

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Initialisation of parameters.

    Attributes:
      name: `normal`, `truncated_normal` (cut at two standard deviations), `xavier_uniform`, `fan_in` (normal with
        variance 1/fan_in), `small` (Nguyen and Salazar 2019) or `mup` (`lm_jax.models.mup`).
      stddev: standard deviation of `normal` and `truncated_normal`.
      embed_stddev: standard deviation of embedding tables; None: `stddev`.
      position_stddev: standard deviation of learned positions; None: as other tables.
      scale_residual: divide kernels that write to the residual stream by sqrt(2 depth) (GPT-2, section 2.3).
      base_width: for `mup`: the width at which the learning rates were tuned.
      attention_gain: factor on the kernels of queries, keys and values; 2^-0.5 draws them as parts of one matrix, as
        torch and fairseq do under `xavier_uniform`.
    """

    name: str = "normal"
    stddev: float = setting(0.02, at_least=0)
    embed_stddev: float | None = setting(None, at_least=0)
    position_stddev: float | None = setting(None, at_least=0)
    scale_residual: bool = False
    base_width: int = setting(256, at_least=1)
    attention_gain: float = setting(1.0, above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormConfig:
    """`layer` (Ba et al. 2016) or `rms` (Zhang and Sennrich 2019); only layer norm has a `bias`.

    Attributes:
      scale: whether features are multiplied by a learned scale.
      offset: the scale is 1 + the parameter (Gemma), so that weight decay pulls the scale to 1.
    """

    name: str = "layer"
    epsilon: float = setting(1e-5, at_least=0)
    bias: bool = True
    scale: bool = True
    offset: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeighboursConfig:
    """A convolution of a layer's input, added to its output (the first layer of DeBERTa-v2's large models).

    Attributes:
      width: width of the centred kernel in tokens, odd; 0: no convolution.
      groups: groups of a grouped convolution.
    """

    width: int = 0
    activation: str = "tanh"
    groups: int = setting(1, at_least=1)

    def __post_init__(self):
        if self.width < 0 or (self.width and self.width % 2 == 0):
            raise InputError(f"block.neighbours.width is {self.width}; expected an odd number, or 0 for no convolution")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """One layer: attention, cross-attention where `cross` is set, feed-forward.

    Attributes:
      norm_placement: `pre` (norm inside the residual branch), `post` (norm of the sum), `sandwich` (norms before and
        after each branch, Gemma 2), `stream` (the residual stream itself is normalised before each branch: an option
        of BLOOM), `parallel` (attention and feed-forward in parallel on one norm, GPT-J) or `parallel_two` (in parallel
        with a norm each, GPT-NeoX).
      attention_norm: whether attention has a norm (ModernBERT's first layer has none).
      cross: attention over an encoder's output; always with the mask `full` and without positions.
      neighbours: a convolution of the layer's input, added to its output. Encoders only.
      dropout: rate on each branch's output before it is added to the residual stream.
    """

    attention: AttentionConfig = AttentionConfig()
    feedforward: FeedForwardConfig = FeedForwardConfig()
    norm: NormConfig = NormConfig()
    norm_placement: str = "pre"
    attention_norm: bool = True
    cross: AttentionConfig | None = None
    neighbours: NeighboursConfig = NeighboursConfig()
    dropout: float = setting(0.0, at_least=0, below=1)

    def __post_init__(self):
        if self.neighbours.width and self.attention.mask != "full":
            mask, width = self.attention.mask, self.neighbours.width
            raise InputError(
                f"block.neighbours.width is {width} under the mask {mask!r}: it would see the future; use 0"
            )
        width = self.feedforward.convolution
        if width < 1 or (width > 1 and self.attention.mask == "full"):
            raise InputError(
                f"feedforward.convolution is {width} under the mask {self.attention.mask!r}; expected 1 (no "
                "convolution), or more in a decoder"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShareConfig:
    """Sharing of parameters between layers (ALBERT, Lan et al. 2020, arXiv:1909.11942, section 3.1).

    Attributes:
      groups: number of parameter sets, each used by consecutive layers; 0: every layer has its own.
      layers: layers in a set, applied one after the other.
    """

    groups: int = setting(0, at_least=0)
    layers: int = setting(1, at_least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackConfig:
    """A stack of `depth` layers.

    Attributes:
      block: settings of a layer.
      kinds: other kinds of layers by a name of your choice, as their differences from `block`:
        `{"local": {"attention": {"window": 128}}}`.
      pattern: kinds of the layers in order, repeated up to `depth`; `block` is the unchanged block:
        `("local", "local", "block")`. Empty: all layers are `block`.
      scan: `always` compiles one repetition of the pattern and loops over it, `never` unrolls, `auto` unrolls shallow
        stacks on CPUs and GPUs.
      remat: what the backward pass computes again: `none`, `full` (everything), `dots` (all but matrix products), or
        another choice of `models.remat`, or the names of the values that it keeps, separated by commas.
    """

    depth: int = 2
    block: BlockConfig = BlockConfig()
    kinds: Tree = Tree()
    pattern: tuple[str, ...] = ()
    share: ShareConfig = ShareConfig()
    scan: str = "auto"
    remat: str = "none"

    def __post_init__(self):
        if self.depth < 1:
            raise InputError(f"stack.depth is {self.depth}; expected at least 1")
        for name in self.pattern:
            if name != "block":
                lookup(self.kinds, name, "a kind in stack.pattern")
        for name in self.kinds:
            if name in ("block", "layers", "relative"):
                raise InputError(f"stack.kinds.{name}: this name is reserved; choose another")
            self.kind(name)
        groups, layers, period = self.share.groups, self.share.layers, max(len(self.pattern), 1)
        if groups and (layers < 1 or self.depth % layers or not 0 < groups <= self.depth // layers):
            raise InputError(
                f"stack.share has {groups} groups of {layers} layers, but stack.depth is {self.depth}; expected a "
                f"multiple of {max(layers, 1)} that is at least their product"
            )
        if groups and layers % period:
            raise InputError(
                f"stack.share.layers is {layers}, but stack.pattern has {period} blocks: parameters would be shared by "
                f"different kinds; use stack.share.layers={period}"
            )
        routed = {block.feedforward.experts for block in self.blocks if block.feedforward.experts.count}
        if len(routed) != 1 and any(block.feedforward.experts.balance for block in self.blocks):
            raise InputError(
                f"feedforward.experts.balance is set, but the stack's layers have {len(routed)} kinds of experts; "
                "expected one; set it to 0, or use the same count, top and balance in all kinds that have experts"
            )

    def kind(self, name: str) -> BlockConfig:
        """The block of a kind: `block` with the differences in `kinds`."""
        return replace_fields(self.block, self.kinds[name], f"stack.kinds.{name}") if name in self.kinds else self.block

    @property
    def experts(self) -> ExpertsConfig:
        """Settings of the first layer with experts; if experts are balanced, the stack has one kind of experts."""
        settings = [block.feedforward.experts for block in self.blocks]
        return next((experts for experts in settings if experts.count), settings[0])

    @property
    def layers(self) -> tuple[BlockConfig, ...]:
        """The block of every layer, first to last."""
        names = self.pattern or ("block",)
        blocks = {name: self.kind(name) for name in names}
        return tuple(blocks[names[index % len(names)]] for index in range(self.depth))

    @property
    def blocks(self) -> tuple[BlockConfig, ...]:
        """The distinct kinds of blocks in the stack."""
        return tuple(map(self.kind, dict.fromkeys(self.pattern[: self.depth]))) or (self.block,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Token, position and segment embeddings.

    Attributes:
      vocab: rows of the token table; None: the tokenizer's size.
      width: width of the residual stream.
      factor: width of factorised tables, which are projected to `width` (ALBERT, section 3.1); None: not factorised.
      factor_bias: whether the projection has a bias (ALBERT and ELECTRA do, OPT does not).
      factor_first: project token embeddings before positions are added (OPT-350M), not the sum.
      positions: `none`, `learned`, `sinusoidal`, `sinusoidal_interleaved` or `sinusoidal_halves`, added to the tokens.
      max_length: the longest input of `learned` positions, in tokens.
      offset: unused rows of the position table before position 0 (OPT, BART: 2).
      types: rows of the token type table (BERT's sentence A or B); 0: no table.
      norm: normalise the sum of embeddings (BERT).
      norm_last: normalise after the projection to `width` (DeBERTa), not before.
      scale: multiply token embeddings by sqrt(width) (Vaswani et al. 2017, section 3.4).
      blank_padding: set the embeddings of padding to zero (DeBERTa).
    """

    vocab: int | None = setting(None, at_least=1)
    width: int = setting(128, at_least=1)
    factor: int | None = setting(None, at_least=1)
    factor_bias: bool = True
    factor_first: bool = False
    positions: str = "learned"
    max_length: int = setting(512, at_least=1)
    offset: int = setting(0, at_least=0)
    types: int = setting(0, at_least=0)
    norm: bool = False
    norm_last: bool = False
    scale: bool = False
    blank_padding: bool = False
    dropout: float = setting(0.0, at_least=0, below=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadoutConfig:
    """Logits over the vocabulary from hidden states.

    Attributes:
      tied: use the token embedding table (Press and Wolf 2017).
      bias: whether each entry of the vocabulary has a bias.
      transform: activation of a dense layer and norm before the logits (BERT's masked-LM head); empty: no such layer.
      transform_bias: whether that dense layer has a bias (ModernBERT's has none).
      scale: multiply hidden states by width ** -0.5 first (T5 with a tied table).
      softcap: soft-cap logits to softcap * tanh(logits / softcap) (Gemma 2).
    """

    tied: bool = True
    bias: bool = False
    transform: str = ""
    transform_bias: bool = True
    scale: bool = False
    softcap: float | None = setting(None, above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """The memory that a call passes on to the next segment (Dai et al. 2019, arXiv:1901.02860, section 3.2).

    Attributes:
      length: number of latest tokens in the memory; None: all.
      reuse: how many of a call's first tokens enter the memory (XLNet's next row starts before the end of this one);
        None: all.
    """

    length: int | None = None
    reuse: int | None = None

    def __post_init__(self):
        for name in ("length", "reuse"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"config.model.memory.{name} is {value}; expected more than 0, or None for all")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """An encoder or a decoder; they differ in the mask of `stack.block.attention`.

    Attributes:
      kind: `encoder` (full mask) or `decoder` (causal or prefix mask).
      final_norm: normalise the last hidden state (pre-norm models).
      pair_classes: classes of the sentence-pair head on the pooled first token (BERT's next sentence: 2); 0: no head.
      two_stream: whether a query stream predicts `Inputs.targets` (XLNet).
      memory: how much of the `Past` is kept from call to call.
      pair_activation: activation of the pooled token (DeBERTa: gelu).
      detection: whether there is a head that detects replaced tokens (ELECTRA's discriminator).
      detection_activation: activation of the dense layer of that head.
      boundary: rows of the position table of the span-boundary head (SpanBERT: 20), the longest span whose tokens it
        predicts; 0: no head.
      boundary_width: width of that table.
      task: the head of a task.
      dtype: computation dtype of the layers; parameters are float32.
    """

    kind: str = "decoder"
    embed: EmbedConfig = EmbedConfig()
    stack: StackConfig = StackConfig()
    norm: NormConfig = NormConfig()
    final_norm: bool = True
    readout: ReadoutConfig = ReadoutConfig()
    pair_classes: int = setting(0, at_least=0)
    two_stream: bool = False
    memory: MemoryConfig = MemoryConfig()
    pair_activation: str = "tanh"
    detection: bool = False
    detection_activation: str = "gelu"
    boundary: int = setting(0, at_least=0)
    boundary_width: int = setting(200, at_least=1)
    task: TaskHeadConfig = TaskHeadConfig()
    init: InitConfig = InitConfig()
    dtype: str = "float32"

    def __post_init__(self):
        _check_dtype(self.dtype)
        if self.kind not in ("encoder", "decoder"):
            raise InputError(f"config.model.kind is {self.kind!r}; expected encoder, decoder or encoder_decoder")
        _check_masks(self.stack, "stack", encoder=self.kind == "encoder")
        if self.two_stream:
            self.check_relative("config.model.two_stream")

    @property
    def typed(self) -> bool:
        """Whether attention scores depend on token types."""
        relative = [block.attention for block in self.stack.blocks if block.attention.position == "transformer_xl"]
        return any(attention.transformer_xl.types for attention in relative)

    def check_relative(self, feature: str) -> None:
        """Refuses blocks other than Transformer-XL's (positions, post-norm, no convolution), which `feature` needs."""
        for block in self.stack.blocks:
            mixed = max(block.attention.convolution, block.feedforward.convolution) > 1
            if block.attention.position != "transformer_xl" or block.norm_placement != "post" or mixed:
                raise InputError(
                    f"{feature} needs stack.block.attention.position='transformer_xl', norm_placement='post' and no "
                    f"convolution; found {block.attention.position!r} and {block.norm_placement!r}"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig:
    """An encoder and a decoder that attends to it.

    Attributes:
      embed: embedding of both sides; each side has its own position table.
      share_embed: whether both sides share a token table; a tied readout uses the decoder's.
      decoder_vocab: rows of the decoder's separate token table; None: as many as the encoder's.
      task: the head of a task, on the decoder's hidden states.
    """

    kind: str = "encoder_decoder"
    embed: EmbedConfig = EmbedConfig()
    share_embed: bool = True
    decoder_vocab: int | None = setting(None, at_least=1)
    encoder: StackConfig = StackConfig()
    decoder: StackConfig = StackConfig()
    norm: NormConfig = NormConfig()
    final_norm: bool = True
    readout: ReadoutConfig = ReadoutConfig()
    task: TaskHeadConfig = TaskHeadConfig()
    init: InitConfig = InitConfig()
    dtype: str = "float32"

    def __post_init__(self):
        _check_dtype(self.dtype)
        if self.share_embed and self.decoder_vocab is not None:
            raise InputError("config.model.decoder_vocab is set, but both sides share a table; use share_embed=False")
        if self.decoder.block.cross is None:
            raise InputError("config.model.decoder.block.cross is not set; set it, or the decoder ignores the encoder")
        _check_masks(self.decoder, "decoder", encoder=False)


ModelConfig = TransformerConfig | EncoderDecoderConfig

KINDS = {"encoder": TransformerConfig, "decoder": TransformerConfig, "encoder_decoder": EncoderDecoderConfig}


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise InputError(f"config.model.dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")


def _check_masks(stack: StackConfig, name: str, *, encoder: bool) -> None:
    for block in stack.blocks:
        mask = block.attention.mask
        if encoder and mask in ("causal", "prefix"):
            raise InputError(f"config.model.{name}.block.attention.mask is {mask!r} in an encoder; use 'full'")
        if not encoder and mask == "full":
            raise InputError(f"config.model.{name}.block.attention.mask is 'full' in a decoder; use 'causal'")
