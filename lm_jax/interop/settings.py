"""config.json of a Hugging Face checkpoint, read strictly: settings that change the function are supported or refused.

A table reads the fields that it knows; `finish` then refuses the checkpoint if the family's classes can read another
field that is not known to be harmless. Rotary settings have two forms: `rope_theta` and `rope_scaling` (transformers
4), and `rope_parameters` (transformers 5).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from lm_jax.core.config import InputError, lookup
from lm_jax.interop import fields, heads
from lm_jax.models.config import RotaryConfig, ScalingConfig

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "squared_relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
# Hugging Face's names of our activations: of several names above, the first.
ACTIVATION_NAMES = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}

# Fields that do not change logits: for training, generation or bookkeeping, or read by no release.
HARMLESS = re.compile(
    r"_.*|auto_map|architectures|model_type|transformers_version|torch_dtype|dtype|use_cache|gradient_checkpointing"
    r"|.*drop(out)?(_prob|_rate)?|.*_pdrop|.*layerdrop|.*dropout.*|init(ializer)?_(range|factor|std|cutoff_factor|device)"
    r"|\w*token_ids?|\w*_token|\w*tokenizer\w*|(forced|suppress|begin_suppress)_\w+|id2label|label2id|num_labels|labels"
    r"|problem_type|finetuning_task|summary_\w+|classifier_(activation|bias|pooling)|pooler_\w+|directionality"
    r"|task_specific_params|num_beams\w*|num_beam_groups|do_sample|early_stopping|length_penalty|repetition_penalty"
    r"|diversity_penalty|(encoder_)?no_repeat_ngram_size|(max|min)_length|(max|min)_new_tokens|temperature|top_[kp]|typical_p"
    r"|bad_words_ids|num_return_sequences|return_dict\w*|output_\w+|chunk_size_feed_forward|prefix|exponential_decay\w+"
    r"|pretraining_tp|slow_but_exact|reorder_and_upcast_attn|n_ctx|is_encoder_decoder|model_max_length|use_bfloat16"
    r"|torchscript|tf_legacy_loss|cross_attention_hidden_size|remove_invalid_values|seq_length|attn_impl"
    r"|attn_implementation|sparse_\w+|deterministic_flash_attn|repad_logits_with_grad|reference_compile|num_hidden_layers"
    r"|max_position_embeddings|static_position_embeddings|normalize_(before|embedding)|add_bias_logits|verbose|revision"
    r"|add_final_layer_norm|extra_pos_embeddings|classif_dropout|save_step|net_structure_type|num_memory_blocks"
    r"|down_scale_factor|gap_size|n_special|predict_special_tokens|rotary|language|parent_library|base_model|license"
    r"|force_bos_token_to_be_generated|gradient_\w+|cache_implementation|vocab_size_or_config_json_file|trust_remote_code"
)

_REQUIRED = object()


class Settings:
    """The fields of a config.json, and which of them have been read."""

    def __init__(
        self,
        tree: Mapping[str, Any],
        tensors: Collection[str] = (),
        file: str = "config.json",
        heads: Collection[str] = (),
        inner: bool = False,
    ):
        """Wraps a parsed file, with no field read.

        Args:
          tree: the parsed file.
          tensors: names of the checkpoint's tensors, which decide settings that config.json leaves out.
          file: the file's name in messages.
          heads: suffixes of the family's classes with the heads of tasks.
          inner: whether `tree` is a nested object of the file.
        """
        self.tree, self.tensors, self.file, self.heads = dict(tree), frozenset(tensors), file, frozenset(heads)
        self.read: set[str] = set()
        self.classes: tuple[str, ...] = ()
        self.is_inner = inner

    def get(self, *names: str, default: Any = _REQUIRED) -> Any:
        """The value of a field under the first of its names that the file has; null counts as absent.

        Raises:
          InputError: the file has none of the names, and there is no default.
        """
        self.read.update(names)
        for name in names:
            if self.tree.get(name) is not None:
                return self.tree[name]
        if default is _REQUIRED:
            raise InputError(f"{self.file} has no {names[0]}; a {self.family} checkpoint needs it")
        return default

    def nullable(self, name: str, default: Any) -> Any:
        """The value of a field, which may be null; `default` if the file lacks the field."""
        self.read.add(name)
        return self.tree.get(name, default)

    def expect(self, name: str, *allowed: Any, why: str = "") -> None:
        """Refuses values of a field that are not `allowed`; a missing field means the first of them."""
        value = self.get(name, default=allowed[0])
        if value not in allowed:
            supported = " or ".join(map(repr, allowed))
            raise InputError(
                f"{self.file}: {name} is {value!r}, and {self.family} is supported with {supported} only"
                + (f" ({why})" if why else "")
            )

    @property
    def family(self) -> str:
        """`model_type`."""
        return str(self.tree.get("model_type", "this"))

    def architecture(self, *names: str) -> str:
        """The class that saved the checkpoint: one of `names`, or one with a head of the family.

        If the file has no class, it is the first of `names`. Sets `classes` to all supported classes.
        """
        name = self.get("architectures", default=[names[0]])[0]
        stem = heads.stem(next(filter(heads.bare, names), names[0]))
        self.classes = (*names, *(stem + head for head in sorted(self.heads)))
        if name not in names and heads.suffix(name) not in self.heads:
            raise InputError(
                f"{self.file}: architectures is {name}; supported are {', '.join(self.classes)}; if it computes the "
                "same as one of them, set --hf.architectures=CLASS"
            )
        return name

    @property
    def headless(self) -> bool:
        """Whether the class has no LM head."""
        name = (self.tree.get("architectures") or [""])[0]
        return heads.bare(name) or heads.suffix(name) in self.heads

    def tied(self, default: bool) -> bool:
        """Whether the readout is the token table; True for classes without a readout."""
        return self.get("tie_word_embeddings", default=default) or self.headless

    def activation(self, *names: str, default: str) -> str:
        """Our name of the activation in a field."""
        value = self.get(*names, default=default)
        if value not in ACTIVATIONS:
            raise InputError(f"{self.file}: {names[0]} is {value!r}; supported are {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]

    def inner(self, name: str) -> Settings:
        """The settings in a nested object of the file."""
        return Settings(self.get(name, default={}), self.tensors, f"{self.file}: {name}", inner=True)

    def labels(self) -> int:
        """Number of classes of a classifier; as in the reference, `num_labels` overrides the names in `id2label`."""
        names = self.get("id2label", default=None)
        return int(self.get("num_labels", default=2 if names is None else len(names)))

    def layer_types(self, depth: int, fallback: list[str]) -> tuple[str, ...]:
        """`full_attention` or `sliding_attention` for every layer."""
        types = tuple(self.get("layer_types", default=fallback))
        if len(types) != depth or set(types) - {"full_attention", "sliding_attention"}:
            raise InputError(
                f"{self.file}: layer_types is {list(types)}; expected full_attention or sliding_attention for each of "
                f"{depth} layers"
            )
        return types

    def rotary(
        self, theta: float, *, layers: str = "", key: str = "rope_theta", fraction: float = 1.0, scaled: bool = True
    ) -> RotaryConfig:
        """Rotary settings, in the form of transformers 4 or 5.

        Args:
          theta: base of the wavelengths if the file has none.
          layers: type of the layers, if each type has its own settings.
          key: the field of theta in transformers 4.
          fraction: rotated share of a head if the file has none.
          scaled: whether `rope_scaling` (transformers 4) applies to these layers.
        """
        tree = self.get("rope_parameters", default=None)
        base, scaling = self.get(key, default=theta), self.get("rope_scaling", default=None)
        share = self.get("partial_rotary_factor", default=fraction)
        if tree is None:
            tree = {"rope_theta": base, "partial_rotary_factor": share, **((scaling or {}) if scaled else {})}
        elif layers and layers in tree:
            tree = tree[layers]
        inner = Settings(tree, (), f"{self.file}: rope_parameters", inner=True)
        rotary = RotaryConfig(
            theta=float(inner.get("rope_theta", default=base)),
            fraction=float(inner.get("partial_rotary_factor", default=share)),
            scaling=_scaling(inner, self.get("max_position_embeddings", default=None)),
        )
        inner.finish()
        return rotary

    def finish(self, readable: Collection[str] | None = None) -> tuple[str, ...]:
        """Refuses unread fields, unless they are harmless, switched off, or read by no class of the family.

        `readable` has the fields that its classes can read; None: any field. Returns the fields that no class reads.

        Raises:
          InputError: an unread field may change the function.
        """
        others, unread = self._others(), []
        for name, value in self.tree.items():
            off = value is None or value is False or value in ({}, [], "")
            if name in self.read or off or HARMLESS.fullmatch(name):
                continue
            if readable is not None and name not in readable and not others:
                unread.append(name)
                continue
            text = repr(value) if len(repr(value)) < 80 else f"{repr(value)[:77]}..."
            advice = "remove it from the file" if self.is_inner else f"--hf.{name}= leaves it out"
            raise InputError(
                f"{self.file}: {name} is {text}, which the {self.family} importer does not know and which may change "
                f"the function{others}; {advice} if it does not"
            )
        return tuple(unread)

    def _others(self) -> str:
        """Names code outside the known classes that may read this file; empty: none."""
        numbers = re.findall(r"\d+", str(self.tree.get("transformers_version", "")))
        release = tuple(map(int, numbers[:2]))
        if self.tree.get("auto_map"):
            return " (auto_map names custom code, which may read it)"
        if release > fields.RELEASE:
            return f" (written by transformers {self.tree['transformers_version']}, whose fields are not known)"
        return ""


def _scaling(rope: Settings, longest: int | None) -> ScalingConfig:
    name = rope.get("rope_type", "type", default="default")
    if name == "default":
        return ScalingConfig()
    read = lookup(_SCALINGS, name, f"{rope.file}: rope_type")
    return read(rope, rope.get("original_max_position_embeddings", default=longest), longest)


def _linear(rope: Settings, length: int | None, longest: int | None) -> ScalingConfig:
    return ScalingConfig(name="linear", factor=float(rope.get("factor", default=1.0)))


def _dynamic(rope: Settings, length: int | None, longest: int | None) -> ScalingConfig:
    return ScalingConfig(name="dynamic", factor=float(rope.get("factor", default=1.0)), length=longest)


def _llama3(rope: Settings, length: int | None, longest: int | None) -> ScalingConfig:
    low, high = float(rope.get("low_freq_factor")), float(rope.get("high_freq_factor"))
    return ScalingConfig(name="llama3", factor=float(rope.get("factor")), length=length, low=low, high=high)


def _yarn(rope: Settings, length: int | None, longest: int | None) -> ScalingConfig:
    factor, magnitude = _stretch(rope, length, longest), rope.get("attention_factor", default=None)
    mscales = [rope.get(field, default=0.0) for field in ("mscale", "mscale_all_dim")]
    if magnitude is None and all(mscales):
        # DeepSeek's form: the magnitude of mscale over that of mscale_all_dim.
        magnitudes = [0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0 for scale in mscales]
        magnitude = magnitudes[0] / magnitudes[1]
    return ScalingConfig(
        name="yarn",
        factor=factor,
        length=length,
        slow=float(rope.get("beta_slow", default=1.0)),
        fast=float(rope.get("beta_fast", default=32.0)),
        whole=rope.get("truncate", default=True),
        magnitude=None if magnitude is None else float(magnitude),
    )


def _longrope(rope: Settings, length: int | None, longest: int | None) -> ScalingConfig:
    magnitude = rope.get("attention_factor", default=None)
    return ScalingConfig(
        name="longrope",
        factor=_stretch(rope, length, longest),
        length=length,
        near=tuple(map(float, rope.get("short_factor"))),
        far=tuple(map(float, rope.get("long_factor"))),
        magnitude=None if magnitude is None else float(magnitude),
    )


def _stretch(rope: Settings, length: int | None, longest: int | None) -> float:
    """Ratio of the context length to that of pretraining."""
    factor = rope.get("factor", default=None)
    return float(longest or 1) / (length or 1) if factor is None else float(factor)


_SCALINGS = {"linear": _linear, "dynamic": _dynamic, "llama3": _llama3, "yarn": _yarn, "longrope": _longrope}
