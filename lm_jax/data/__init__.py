"""From text to batches: sources, cleaning, tokenizers, the token store, row plans, shuffling, the input pipeline.

Nothing here runs on a device. A corpus is cleaned, tokenised and stored once; afterwards the global batch of any step
is a pure function of (seed, step).
"""
