"""Runs, metrics, tables and the `libra` command line. Importing it loads neither torch nor pandas."""
