"""What every room may use: configuration, parameter trees, sums."""
