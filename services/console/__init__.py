"""console: the web pages, and one address for people and programs.

Owns       nothing: what it knows of a visitor is in the browser's cookies
HTTP       pages; /live; /api/v1/… forwarded by prefix to the service that owns it; health of its own

    browser ──► pages ──► gateway ──┐            (with the session's access token)
    curl ─────► api ────────────────┼──► job_api    /jobs /runs /certificates
                                    ├──► exporter   /files /sources /estimates
                                    └──► history    /executions /artifacts /slots /coverage /statistics /audit /stream
    browser ◄── /live ◄── feed ◄────────── history's /stream, one connection for each tenant that looks

Rooms: `pages` are made on the server from `templates` and work without scripts where that is cheap; htmx and
`static/console.js` make them live. `domain` says how things are shown and what forms mean, `gateway` asks the services,
`identity` signs people in at their provider. Who may do what is decided by the service that answers; pages only hide
what would be refused.

Security   a session is its access token, sealed into an HttpOnly cookie; writes must come from a page of this address;
           nothing inline runs, nothing is evaluated, no change is made by GET; `/api/v1` knows bearer tokens only

Failures
    a service is away       pages say so, `/api/v1` answers 503 `unavailable`; nothing is repeated, because the service
                            may have acted
    a session ends          renewed by its refresh token, otherwise back to the page after signing in
    /live breaks off        the browser comes back by itself; pages show the truth at every load
"""
