"""Search in a collection of photos: an index of vectors, and the matching head on the best candidates."""
