"""Optimizers over stacked runs: every run has its own state, line search and stopping rule."""
