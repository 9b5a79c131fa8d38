"""Layers, one after the other: the block, how a stack is cut into loops, and the loops."""
