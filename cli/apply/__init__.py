"""`cdds apply` and `cdds export`: the jobs of a tenant as files, each under a key that never changes.

    files ──read──► wanted ──┐
                             ├──plan──► steps ──carry out──► created, changed, deleted, or left as they are
    the service's jobs ──────┘

What is compared are settings as the service understands them, so a default that is written changes nothing. Before
anything is changed, every job that would be is shown to the service, and when one of them can't be accepted, none is.
Then each step stands for itself: it changes the version that was planned for, a job that somebody else changed
meanwhile is read and planned anew, and whatever was interrupted is done by applying the same files again.
"""
