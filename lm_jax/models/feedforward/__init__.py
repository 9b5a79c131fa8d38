"""Feed-forward layers: dense, or a mixture of experts."""
