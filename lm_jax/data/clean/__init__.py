"""Cleaning of text: small named steps, a chain that applies them, and a report of their effects on documents."""
