"""One `skyward run`: find the target, collect its tasks, select, run, store. Imports `api` and what is below it."""
