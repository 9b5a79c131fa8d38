"""Attention: projections, masks, positions and the kernels that compute it."""
