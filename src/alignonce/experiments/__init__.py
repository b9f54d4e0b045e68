"""Reproducible runs: configuration, data, models, training and their results on disk."""
