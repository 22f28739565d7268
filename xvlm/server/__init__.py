"""The service: a trained model, and an index of photos, over HTTP."""
