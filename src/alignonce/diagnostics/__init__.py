"""What learning does: measurements on a model and batches."""
