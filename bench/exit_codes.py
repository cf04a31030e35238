"""What the commands exit with, beside 0."""

# What was asked for ran, and its answer is no: checks that failed, a run that is INVALID, a server that broke off.
FAILED = 1
# The command cannot be carried out as given.
FAULT = 2
# Ctrl-C; what was done is kept.
INTERRUPTED = 130
