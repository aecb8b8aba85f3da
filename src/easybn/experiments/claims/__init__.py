"""What the paper claims, and what rows say to it."""
