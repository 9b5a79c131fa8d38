"""Decoding: prompts, sampling, generation with a KV cache, and mask filling."""
