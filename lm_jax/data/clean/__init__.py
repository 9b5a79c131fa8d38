"""Cleaning of text: small named steps, a chain that applies them, and a report that counts their effects."""
