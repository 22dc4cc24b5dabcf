"""Image data sets: where they are found, how they are read and prepared."""
