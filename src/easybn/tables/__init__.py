"""Runs of the same experiment at several seeds: means, intervals, paired tests, and the paper's tables of them."""
