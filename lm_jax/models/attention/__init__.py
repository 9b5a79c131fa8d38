"""Attention: projections, masks, positions and kernels."""
