"""How fast is it, and against what?  One file for each measurement, named as on the command line."""
