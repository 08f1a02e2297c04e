"""Optuna's samplers, each made to suggest the same after a restart as before it."""
