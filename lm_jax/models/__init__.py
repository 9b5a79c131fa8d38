"""One transformer for encoders, decoders and encoder-decoders: a family is a preset, never a model file."""
