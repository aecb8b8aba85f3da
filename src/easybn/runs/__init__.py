"""Runs, tables and the paper's experiments."""
