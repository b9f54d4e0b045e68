"""Labelled images: where they come from, how they are checked, what they look like in memory."""

from alignonce.experiments.data.image_data import DataUnavailable, ImageData
from alignonce.experiments.data.loading import load_data
from alignonce.experiments.data.source import DataSource

__all__ = ["DataSource", "DataUnavailable", "ImageData", "load_data"]
