"""The live feed: one connection to history for each tenant that has open pages, whatever their number.

    history ── /stream ──► channel of a tenant ── every 250 ms what changed, as HTML, once ──► queue of each page
                                 └─ GET /jobs/{id} of the jobs that something happened to

An event says only that something happened to a job; what is shown is read from its owner then, once for all pages. How
far a run is comes with the event itself. A page that was opened a moment ago first gets what changed in the last
seconds, so that nothing is lost between what it was made of and its place in the feed. The connection carries the token
of one of those who look; when history takes it no more, another one's goes on where that one ended.

Failures
    history is away         pages stay connected and are told that they are `stale`, later that they are `fresh`
    job_api is away         jobs are read again until it answers
    a page is too slow      it is let go, and comes back by itself
    a token ends            so do its pages; the others go on
"""

from services.console.feed.hub import Full, Hub
from services.console.feed.page import Limits, Page

__all__ = ["Full", "Hub", "Limits", "Page"]
