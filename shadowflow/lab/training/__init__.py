"""One full-batch training run: its configuration, its loop, what it leaves on disk."""
