"""All open pages of the process, by tenant."""

import asyncio
from datetime import datetime
from typing import Final

from prometheus_client import Gauge

from services.console.feed.channel import Channel, Views
from services.console.feed.page import Limits, Page
from services.console.gateway import Gateway

PAGES: Final = Gauge("cdds_live_pages", "Open pages that are kept up to date")


class Full(Exception):
    """As many pages as this process takes are open, or it is stopping."""


class Hub:
    """Follows the tenants that have open pages."""

    def __init__(self, gateway: Gateway, views: Views, limits: Limits | None = None) -> None:
        self._gateway = gateway
        self._views = views
        self.limits = limits or Limits()
        self._channels: dict[str, Channel] = {}
        self._pages: dict[Page, Channel] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Follow until cancelled; then the pages' responses end."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await asyncio.Event().wait()
        finally:
            self._tasks = None
            for page in list(self._pages):
                page.end()

    def open(self, tenant: str, token: str, zone: str, until: datetime) -> Page:
        """A page of somebody whose `token` is good `until` then; raises Full. Whoever gets the page closes it."""
        if self._tasks is None or len(self._pages) >= self.limits.pages:
            raise Full
        channel = self._channels.get(tenant)
        if channel is None:
            channel = self._channels[tenant] = Channel(tenant, self._gateway, self._views, self.limits, self.abandon)
            channel.task = self._tasks.create_task(channel.follow(), name=f"live feed of {tenant}")
        page = Page(tenant, token, zone, until, self.limits, self.close)
        self._pages[page] = channel
        PAGES.set(len(self._pages))
        channel.join(page)
        return page

    def close(self, page: Page) -> None:
        """Forget a page, and its channel some time after the last one."""
        channel = self._pages.pop(page, None)
        if channel is None:
            return
        PAGES.set(len(self._pages))
        channel.leave(page)
        if not channel.pages:
            asyncio.get_running_loop().call_later(self.limits.linger.total_seconds(), self._forget, channel)

    def abandon(self, channel: Channel) -> None:
        """Let the pages of a channel go; they come back to a new one."""
        self._channels.pop(channel.tenant, None)
        for page in list(channel.pages):
            page.end()

    def _forget(self, channel: Channel) -> None:
        if not channel.pages and self._channels.get(channel.tenant) is channel:
            del self._channels[channel.tenant]
            if channel.task is not None:
                channel.task.cancel()
