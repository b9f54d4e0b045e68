"""Training one network: the loop, what runs it, what it measures, stopping and going on."""
