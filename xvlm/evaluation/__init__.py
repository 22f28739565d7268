"""Evaluations: one file for each measure, with its `evaluate_*` function and its `MEASURE`."""
