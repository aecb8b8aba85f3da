"""Everything that is about the paper "Easy Batch Normalization": its numbers and tables beside ours, and its claims.

Tables and claims are made from rows. Two experiments of the paper, the stacked images of its figures 1 and 2
(:mod:`.stacked`) and the census of easy examples (:mod:`.census`), train networks themselves: they are no recipe, and
nothing but the paper asks for them.
"""
