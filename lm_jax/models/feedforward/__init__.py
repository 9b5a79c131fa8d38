"""The position-wise half of a layer: dense, or a mixture of experts."""
