"""The equation on paper."""
