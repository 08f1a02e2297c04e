"""What becomes of a trial after a report: pruning and early stopping, as decisions without effects."""
