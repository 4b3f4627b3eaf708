"""Contact-centre rows, the same on every machine and in chunks of any size.

A thread is a first interaction (the origin) and its replies, which share its medium, contact and subject; the contact
decides language and tenant, and is created before the interactions that name it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import shake_256

import numpy as np
from numpy.typing import NDArray

from deploy.local.data.chance import Chance, Indices
from deploy.local.data.rendering import Fields, digits, hexadecimal, lines, pool, timestamps, when
from deploy.local.data.vocabulary import VARIANTS, vocabulary

Flags = NDArray[np.bool_]

CHUNK_ROWS = 2_048  # about 2 MiB
INTERACTIONS_PER_CONTACT = 4
REPLY_DISTANCE = 5_000  # rows between an origin and its reply, at most

# Contact centres are busy on weekdays, with a dip at noon: weights per UTC hour, and per weekday from Monday.
HOURS = (2, 1, 1, 1, 1, 2, 6, 14, 26, 38, 44, 44, 38, 40, 44, 42, 38, 30, 22, 16, 12, 8, 5, 3)
WEEKDAYS = (112, 106, 104, 102, 98, 48, 30)


@dataclass(frozen=True, slots=True)
class Medium:
    name: str
    percent: int
    entity_type: int
    shortest_seconds: int
    longest_seconds: int
    text_percent: int
    queues: tuple[str, str, str, str]  # the first is the busiest


MEDIA = (
    Medium("voice", 46, 3, 8, 5_400, 30, ("billing", "support", "sales", "Rückgewinnung")),
    Medium("email", 20, 0, 300, 259_200, 100, ("mail in", "mail complaints", "mail legal", 'mail "other"')),
    Medium("chat", 16, 2, 40, 7_200, 100, ("web", "app", "shop", "vip")),
    Medium("callback", 6, 5, 60, 86_400, 30, ("callback", "callback vip", "callback night", "callback test")),
    Medium("sms", 5, 6, 20, 43_200, 100, ("sms", "sms vip", "sms marketing", "sms test")),
    Medium("whatsapp", 5, 7, 20, 86_400, 100, ("whatsapp", "whatsapp vip", "whatsapp shop", "whatsapp test")),
    Medium("workitem", 2, 8, 600, 864_000, 30, ("back office", "returns", "scans", "archive")),
)
EMAIL, CHAT = 1, 2
TYPES, TYPE_PERCENTS = ("Inbound", "Outbound", "Internal"), (90, 8, 2)
FILES = (
    ("contract.pdf", "application/pdf", b"%PDF-1.7\n"),
    ("photo.jpg", "image/jpeg", b"\xff\xd8\xff\xe0"),
    ("Rechnung März.pdf", "application/pdf", b"%PDF-1.4\n"),
    ("screenshot.png", "image/png", b"\x89PNG\r\n\x1a\n"),
    ('fatura "final".zip', "application/zip", b"PK\x03\x04"),
    ("領収書.pdf", "application/pdf", b"%PDF-1.6\n"),
)
CONTENTS = [  # 32 different ones per file, 256 bytes to 8 KiB
    start + shake_256(f"{name} {size}".encode()).digest(8 * size * size + 256 - len(start))
    for name, _, start in FILES
    for size in range(32)
]

MEDIUM_NAMES = pool(medium.name for medium in MEDIA)
ENTITY_TYPES = pool(str(medium.entity_type) for medium in MEDIA)
APPLICATIONS = pool(str(2_000 + medium.entity_type // 3) for medium in MEDIA)
QUEUES = pool(queue for medium in MEDIA for queue in medium.queues)
TYPE_NAMES = pool(TYPES)
CATEGORIES = pool(["Billing", "Delivery", "Technical", "Contract", "Complaint", "Praise", None, None, None])
SUBTENANTS = pool(["retail", "business", None, None, None])
SAFETY = pool(["Safe"] * 48 + ["Unsafe", "Unknown"])
TITLES = pool(["Ms", "Mr", "Dr", None, None])
SEGMENTS = pool(["bronze", "bronze", "silver", "gold", "business"])
FILE_NAMES = pool(name for name, _, _ in FILES)
FILE_TYPES = pool(kind for _, kind, _ in FILES)
FILE_SIZES = pool(str(len(content)) for content in CONTENTS)
FILE_CONTENTS = pool(f"\\x{content.hex()}" for content in CONTENTS)


@dataclass(frozen=True, slots=True)
class Population:
    """What one source holds between two moments: equal populations render to equal bytes."""

    source: str
    rows: int
    seed: int
    start: datetime
    end: datetime
    tenants: Mapping[str, int]  # weights

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None or self.start >= self.end:
            raise ValueError("a population needs a window with time zones that ends after it starts")


class Generator:
    """Renders a population in chunks; each method yields what COPY reads into the table of its name."""

    def __init__(self, population: Population) -> None:
        self.rows = population.rows
        self.chance = Chance(f"{population.source}/{population.seed}")
        self.words = vocabulary()
        self.tenants, self.tenant_weights = pool(population.tenants), list(population.tenants.values())
        self.closes = _milliseconds(population.end)
        self.slices, self.lengths, self.busyness = _timeline(population.start, population.end)

    def interactions(self) -> Iterator[bytes]:
        return map(self._interactions, self._chunks())

    def attachments(self) -> Iterator[bytes]:
        """Those of the interactions of the same population, at most one each."""
        return map(self._attachments, self._chunks())

    def contacts(self) -> Iterator[bytes]:
        """`rows` contacts; interactions name one contact for every `INTERACTIONS_PER_CONTACT` of them."""
        return map(self._contacts, self._chunks())

    def _interactions(self, rows: Indices) -> bytes:
        words, percent = self.words, self._percent
        replies, origins = self._threads(rows)
        media, contacts = self._media(origins), self._named_contacts(origins)
        tenants, languages = self._tenants(contacts), self._languages(contacts)
        types = self.chance.weighted("type", rows, TYPE_PERCENTS)
        first, second, third = (self._fragments(part, rows, languages) for part in ("first", "second", "third"))

        letters, long = media == EMAIL, (media == EMAIL) | (media == CHAT)
        texts = self.chance.pick("text", rows, 100) < np.array([medium.text_percent for medium in MEDIA])[media]
        structured = letters & percent("structured", rows, 60)

        starts = self._moments(rows)
        ends = starts + self._durations(rows, media)
        ended = ends < self.closes
        edits = np.where(ended, np.minimum(ends + self.chance.pick("edited", rows, 600_000), self.closes), starts)
        thread = self._identifiers("interaction", origins)
        return lines(
            [self._identifiers("interaction", rows)],
            [when(ended, b"3", b"2")],
            [ENTITY_TYPES[media]],
            [MEDIUM_NAMES[media]],
            [TYPE_NAMES[types]],
            [TYPE_NAMES[types], when(replies, b"Reply", b"New")],
            [when(percent("external", rows, 70), hexadecimal(self.chance.bits("external", rows)))],
            [when(percent("owned", rows, 97), self._owners(tenants, rows))],
            [self._identifiers("contact", contacts)],
            [when(replies, thread)],
            [timestamps(starts)],
            [timestamps(edits)],
            [when(ended, timestamps(ends))],
            [thread],
            [self._one_of("category", rows, CATEGORIES)],
            [words.offsets[languages]],
            [
                when(letters & replies, b"Re: ", b""),
                when(long, words.subjects[self._fragments("subject", origins, languages)]),
            ],
            [
                when(texts, when(letters, words.greetings[third], b"")),
                when(texts, words.paragraphs[first], b""),
                when(long, rb"\n", b""),
                when(long, words.paragraphs[second], b""),
                when(letters, words.closings[third], b""),
            ],
            [
                when(structured, b"<html><body><p>"),
                when(structured, words.paragraphs_html[first], b""),
                when(structured, b"</p><p>", b""),
                when(structured, words.paragraphs_html[second], b""),
                when(structured, b"</p></body></html>", b""),
            ],
            [when(structured, b"text/html")],
            [when(percent("commented", rows, 15), words.comments[third])],
            [self.tenants[tenants]],
            [self._one_of("subtenant", contacts, SUBTENANTS)],
            [hexadecimal(self.chance.bits("thread", origins)), hexadecimal(self.chance.bits("hash", origins))],
            [when(replies, b"f", b"t")],
            [APPLICATIONS[media]],
            [QUEUES[media * 4 + self.chance.weighted("queue", rows, (60, 25, 10, 5))]],
            [
                b'{"SessionId": "',
                *(hexadecimal(self.chance.bits(f"session {part}", rows)) for part in range(2)),
                b'", "TraceId": "',
                *(hexadecimal(self.chance.bits(f"trace {part}", rows)) for part in range(2)),
                b'", "RecordingSha256": "',
                *(hexadecimal(self.chance.bits(f"recording {part}", rows)) for part in range(4)),
                b'", "ANI": "+',
                self._telephones(contacts),
                b'", ',
                words.profiles[self._fragments("profile", rows, languages)],
                b"}",
            ],
            [when(letters & percent("spam", rows, 2), b"t", b"f")],
            [when(letters, self._one_of("safety", rows, SAFETY))],
        )

    def _attachments(self, rows: Indices) -> bytes:
        media = self._media(self._threads(rows)[1])
        rows = rows[((media == EMAIL) | (media == CHAT)) & self._percent("attached", rows, 8)]
        names = self.chance.weighted("file", rows, (30, 25, 20, 15, 5, 5))
        contents = names * 32 + self.chance.pick("content", rows, 32)
        return lines(
            [self._identifiers("attachment", rows)],
            [self._identifiers("interaction", rows)],
            [self.tenants[self._tenants(self._named_contacts(self._threads(rows)[1]))]],
            [timestamps(self._moments(rows))],
            [FILE_NAMES[names]],
            [FILE_TYPES[names]],
            [FILE_SIZES[contents]],
            [FILE_CONTENTS[contents]],
        )

    def _contacts(self, rows: Indices) -> bytes:
        languages, created = self._languages(rows), self._moments(rows)
        edits = np.minimum(created + self.chance.pick("contact edited", rows, 1 << 30), self.closes)
        identifiers = self._identifiers("contact", rows)
        return lines(
            [identifiers],
            [self.tenants[self._tenants(rows)]],
            [timestamps(created)],
            [timestamps(edits)],
            [self._one_of("title", rows, TITLES)],
            [self.words.people[self._fragments("person", rows, languages)]],
            [self.words.codes[languages]],
            [self._one_of("segment", rows, SEGMENTS)],
            [
                b"{",
                identifiers,
                b"@example.com",
                when(self._percent("second address", rows, 20), b",second@example.org", b""),
                b"}",
            ],
            [b"{+", self._telephones(rows), b"}"],
            [b"{", self.words.profiles[self._fragments("profile", rows, languages)], b"}"],
        )

    def _chunks(self) -> Iterator[Indices]:
        for first in range(0, self.rows, CHUNK_ROWS):
            yield np.arange(first, min(first + CHUNK_ROWS, self.rows), dtype=np.int64)

    def _threads(self, rows: Indices) -> tuple[Flags, Indices]:
        """Which rows are replies, and every row's origin: itself unless it is a reply. Origins are never replies."""
        earlier = rows - 1 - self.chance.pick("distance", rows, REPLY_DISTANCE)
        replies = self._percent("reply", rows, 30) & (earlier >= 0) & ~self._percent("reply", earlier, 30)
        return replies, np.where(replies, earlier, rows)

    def _media(self, origins: Indices) -> Indices:
        return self.chance.weighted("medium", origins, [medium.percent for medium in MEDIA])

    def _named_contacts(self, origins: Indices) -> Indices:
        """Any contact created before; the older ones have called more often."""
        known = origins / INTERACTIONS_PER_CONTACT - 1
        return np.maximum(known * self.chance.unit("contact", origins), 0).astype(np.int64)

    def _tenants(self, contacts: Indices) -> Indices:
        return self.chance.weighted("tenant", contacts, self.tenant_weights)

    def _languages(self, contacts: Indices) -> Indices:
        return self.chance.weighted("language", contacts, self.words.shares)

    def _moments(self, rows: Indices) -> Indices:
        """Milliseconds since 1970 that never fall behind the row before, denser in busy hours."""
        spent = (rows + self.chance.unit("moment", rows)) / self.rows * self.busyness[-1]
        hour = np.searchsorted(self.busyness, spent, side="right") - 1
        share = (spent - self.busyness[hour]) / (self.busyness[hour + 1] - self.busyness[hour])
        return self.slices[hour] + (share * self.lengths[hour]).astype(np.int64)

    def _durations(self, rows: Indices, media: Indices) -> Indices:
        """Milliseconds, most of them short: the fifth power keeps the median near a thirtieth of the longest."""
        shortest = np.array([medium.shortest_seconds * 1_000 for medium in MEDIA])[media]
        longest = np.array([medium.longest_seconds * 1_000 for medium in MEDIA])[media]
        unit = self.chance.unit("duration", rows)
        return shortest + ((longest - shortest) * (unit * unit * unit * unit * unit)).astype(np.int64)

    def _identifiers(self, kind: str, rows: Indices) -> Fields:
        """Sixteen characters that sort like the rows."""
        return digits(rows + (self.chance.key(kind) % (1 << 20) << 40), 32, 16)

    def _telephones(self, contacts: Indices) -> Fields:
        return digits(420_000_000_000 + self.chance.pick("telephone", contacts, 1 << 30), 10, 12)

    def _owners(self, tenants: Indices, rows: Indices) -> Fields:
        """Two hundred agents per tenant; the square makes some of them ten times as busy as others."""
        unit = self.chance.unit("owner", rows)
        return digits(100_000 + tenants * 1_000 + (unit * unit * 200).astype(np.int64), 10, 6)

    def _fragments(self, name: str, rows: Indices, languages: Indices) -> Indices:
        return languages * VARIANTS + self.chance.pick(name, rows, VARIANTS)

    def _percent(self, name: str, rows: Indices, percent: int) -> Flags:
        return self.chance.pick(name, rows, 100) < percent

    def _one_of(self, name: str, rows: Indices, fields: Fields) -> Fields:
        return fields[self.chance.pick(name, rows, len(fields))]


def _milliseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _timeline(start: datetime, end: datetime) -> tuple[Indices, Indices, Indices]:
    """The window's hours: where each starts, its length (the last may be shorter), and how busy all before it were."""
    hours = np.arange(_milliseconds(start), _milliseconds(end), 3_600_000, dtype=np.int64)
    lengths = np.minimum(3_600_000, _milliseconds(end) - hours)
    hour_numbers = hours // 3_600_000
    weekdays = (hour_numbers // 24 + 3) % 7  # 1 January 1970 was a Thursday
    weights = np.array(HOURS)[hour_numbers % 24] * np.array(WEEKDAYS)[weekdays] * lengths
    return hours, lengths, np.concatenate(([0], np.cumsum(weights)))
