"""The `cdds` command: the local stack today; jobs, runs and artifacts as their issues are built.

Exit codes: 0 fine, 1 refused or failed, 2 usage, 3 verification failed, 4 unreachable.
"""
