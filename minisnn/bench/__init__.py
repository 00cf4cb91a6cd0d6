"""``minisnn bench``: how fast layers and training steps are, on the backends of a CPU."""
