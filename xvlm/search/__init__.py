"""Search in a collection of photos: an index of vectors, and the matching head on the best candidates."""

from xvlm.search.filters import Circle, PhotoFilter
from xvlm.search.index import Index
from xvlm.search.ranking import Hit

__all__ = ["Circle", "Hit", "Index", "PhotoFilter"]
