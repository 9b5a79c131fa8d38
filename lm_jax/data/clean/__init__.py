"""Cleaning: small named steps, a chain of them, and a report of what they did."""
