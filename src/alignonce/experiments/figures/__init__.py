"""Drawing: the style that all figures share, and each figure."""
