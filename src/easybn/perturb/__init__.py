"""Gradient perturbations: a ball, a goal and the loop that connects them."""
