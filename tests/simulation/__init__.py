"""A virtual year of the scheduler in less than a second: a fleet of jobs, people, runs and faults, all from one seed.

    fleet      random jobs                             calendar   slots and intervals, computed by other means
    people     job_api and its administrators          record     what happened, to be read and to be checked
    world      time, transport, faults, runs           replay     every decision, judged in the order of the commits
    kernels    the rules in memory, or the real store  checks     the ledger at rest, held against the calendar

Nothing sleeps and nothing asks the real clock, so a seed is the same world every time: `make simulate SEED=1234`.
"""
