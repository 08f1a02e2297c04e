"""The study: claims, suggestions, records and everything that is written to Optuna."""
