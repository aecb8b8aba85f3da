"""Auxiliary normalisation: a norm layer for each kind of example, and how to convert, route, strip and fold."""
