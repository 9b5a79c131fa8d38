"""Shared by all packages: configuration, parameter trees, sums."""
