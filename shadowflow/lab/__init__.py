"""Real losses to run an optimizer on."""
