"""What the commands do, with what they print and write."""
