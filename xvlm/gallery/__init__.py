"""What evaluations found, as pages to look at: a file a measure, each with `TILES` and `sections(found)`."""
