"""One worker: claim, run, finish, until nothing is left. Joins study, trial and schedulers."""
