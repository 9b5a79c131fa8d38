"""lm_jax: encoders, decoders and encoder-decoders in one JAX/Flax library."""

__version__ = "0.1.0"
