"""Studies: many runs that together answer a question, described in one file."""
