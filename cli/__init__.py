"""The `cdds` command: the local stack, and over the HTTP API jobs, runs, certificates and files (docs/command-line.md).

Exit codes: 0 fine, 1 refused or failed, 2 usage, 3 verification failed, 4 unreachable.
"""
