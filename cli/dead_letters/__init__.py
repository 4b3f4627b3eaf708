"""`cdds dead-letters`: the records that consumers put aside, why they did, and how they are handled once more.

`<topic>.dead` holds them unchanged, with the reason in their headers (`shared.messaging.Producer.bury`). Nobody is a
consumer of these topics: they are read from where they begin to where they end, and no offset is committed. A record
that is replayed stays where it is; a mark on the same partition says that it was, so that it does not count any more.
"""
