"""One file a form: `write(out, photos, phrases)` writes it into a folder."""
