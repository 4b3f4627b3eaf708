"""`cdds artifacts`: what recipients of exports do with them.

    fetch    files of the service into a folder      client (HTTP), ledger (what was fetched)
    verify   files in a folder, offline              manifests, inspection (one run), chain (all runs of a job)
    decrypt  sealed parts into rows                  opening (streams), unnamed (files that appear when complete)

`failures` makes one line of what can go wrong. Nothing here holds a file in memory.
"""
