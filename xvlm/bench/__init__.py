"""Benchmarks: one file for each, named as on the command line (`xvlm bench NAME`)."""
