"""A study: a grid of runs, each trained, stripped and evaluated; what is there is not done again."""
