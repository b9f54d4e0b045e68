"""Runs on disk: their folders, what is written into them, and training one into its folder."""
