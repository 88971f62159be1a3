"""Statistics of rows: pairs of seeds, tests over users and seeds, bootstrap intervals, Holm's families."""
