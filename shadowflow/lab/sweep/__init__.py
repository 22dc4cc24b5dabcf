"""Grids of training runs, on one machine or many: each cell an idempotent run of its own."""
