"""The console as a person uses it: real pages in a real browser, on a whole stack.

Each test has a tenant of its own, so that tests see only what they made. Whatever a page says on the browser's console,
and whatever its Content-Security-Policy had to stop, fails the test.
"""
