"""Stacks of layers: the block, the division of a stack into loops, and the loops."""
