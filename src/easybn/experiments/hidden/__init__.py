"""How far a perturbation moves the hidden states of trained models."""
