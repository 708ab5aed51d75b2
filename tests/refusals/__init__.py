"""`make refusals`: whether each refusal of the pages and the code behind them has a test, and that test a twin.

For each place that refuses, it makes two mutants, "the refusal is gone" and "everything is refused", and if a condition
has several reasons, one more for each reason. A test must fail with each of them.
"""
