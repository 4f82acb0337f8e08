"""Reports of a run: a page that a person can look at, and a table for the terminal. Both are drawn from `result.json` alone."""
