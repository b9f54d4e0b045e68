"""The commands of the command line, one file each. Each calls one function, and prints."""
