"""Filters of texts and images: one file each, which defines `make`."""
