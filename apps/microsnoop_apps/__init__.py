"""Command line and demo: the only layer that prints."""
