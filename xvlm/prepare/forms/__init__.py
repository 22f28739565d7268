"""Forms of people's own annotations: one file each, which defines `FORM`."""
