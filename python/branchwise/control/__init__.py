"""The compute-optimal controller: what is known of a policy and its judge, and how a budget is spent by it.

The rule itself is a strategy like any other (`strategies/auto.py`). Here is what it goes by: calibrations fitted to
results with known answers, and the allocation of one budget to many problems.
"""
