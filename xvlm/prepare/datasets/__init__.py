"""Public data sets: one file each, which defines `DATASET`."""
