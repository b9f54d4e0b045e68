"""What can be learnt: each task brings its network, its batches, its loss and its tests."""

from alignonce.experiments.tasks.images import ImageClassification
from alignonce.experiments.tasks.task import Forward, Task

__all__ = ["Forward", "ImageClassification", "Task"]
