"""Labels for people's photos: boxes of phrases, in the forms that annotation tools read."""
