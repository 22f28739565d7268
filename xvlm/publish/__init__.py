"""Models for others: cards that describe them, and uploads to a hub."""
