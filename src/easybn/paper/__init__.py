"""The paper's figures 1 and 2: does a network decide by the easy half of a stacked image, or by the original?"""
