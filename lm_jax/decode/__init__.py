"""Text out of models: sampling, generation with a cache, filling masks, prompts."""
