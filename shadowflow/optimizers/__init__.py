"""Optimizers: state maps with a memory, behind one interface."""
