"""`cdds doctor`: is everything that CDDS needs there, set as it should be, and moving; and what to do if not.

Each area (`configuration`, `postgres`, `broker`, `services`, `sources`, `objects`) is a module of small checks with one
idea each, which answer with findings. They run at the same time, each for at most `checking.CHECK_SECONDS`, and none
prevents another: what can't be asked is a finding, too. Nothing is changed, apart from an object that is written to the
store and deleted again, and nothing secret is shown.

Modules that only some checks need are imported by these, so that every other command starts as fast as without them.
"""
