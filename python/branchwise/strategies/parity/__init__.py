"""The searches of other people's code as they are, quirks and all: for comparisons with their published numbers.

Each quirk that shapes the tree is kept and named; texts are not tokenised anew at every step, as they do. Where their
order of equal scores is arbitrary, the smaller place wins.
"""
