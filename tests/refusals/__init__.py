"""`make refusals`: whether each refusal of the pages and of what stands behind them has a test, and that test a twin.

Of each place that refuses it makes two mutants, "the refusal is gone" and "everything is refused", and for a condition
of several reasons one more for each reason. A test must fail with each of them.
"""
