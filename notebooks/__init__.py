"""Notebooks: NAME.py (jupytext's percent format) is the source, NAME.ipynb its result with outputs."""
