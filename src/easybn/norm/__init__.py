"""Auxiliary normalisation: one norm layer for each kind of example, and the way between them."""
