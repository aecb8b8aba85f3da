"""Measurements of a trained network beside its accuracy: easy examples, hidden states, distances of branches."""
