"""What the generated people say: fragments rendered once from `phrases.toml`, ready to be copied into rows."""

import html
import json
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from deploy.local.data.rendering import Fields, pool

# What breaks exporters: one in every hundred sentences is one of these.
HOSTILE = (
    "C:\\temp\\new\\report.txt",
    "ends with a backslash\\",
    "she said \"yes\", he said 'no'",
    "line one\nline two\r\nline three",
    "column\tcolumn\t\tcolumn",
    "\\N",
    "\\.",
    '=HYPERLINK(A1;"click")',
    "</script><b>&amp;</b>",
    '{"json": ["inside", null]}',
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪",
    "e\u0301 is not é",
    "שלום \u202eabc\u202c مرحبا",
    "zero\u200bwidth\ufeff, no\u00a0break",
    "separator\u2028separator\u2029",
    "control \x01\x08\x0b\x1b\x7f\x85",
    "last code point \U0010ffff, \uffff",
    "  spaces, commas; and ends  ",
)
EMOJI = ("😀", "🙏", "😡", "👍", "❤️", "😢", "🎉", "🤷‍♀️")

# Fragments per language and kind: enough that deflate, which looks back 32 KiB, seldom sees one twice.
VARIANTS = 2_048


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """One share, code and offset (minutes from UTC) per language; of all else `VARIANTS`, language after language."""

    shares: list[int]
    codes: Fields
    offsets: Fields
    people: Fields
    subjects: Fields
    greetings: Fields
    paragraphs: Fields
    paragraphs_html: Fields
    closings: Fields
    comments: Fields
    profiles: Fields
    """The members of `allAttributes` that say nothing about the single interaction."""


@cache
def vocabulary() -> Vocabulary:
    phrases: dict[str, Any] = tomllib.loads(Path(__file__).with_name("phrases.toml").read_text("utf-8"))
    products: list[str] = phrases.pop("products")
    rendered: defaultdict[str, list[str]] = defaultdict(list)
    for code, language in phrases.items():
        speaker = _Speaker(Random(code), language, products)
        for _ in range(VARIANTS):
            rendered["people"].append(speaker.say("people"))
            rendered["subjects"].append(
                speaker.say("subjects") + (f" {speaker.one_of(HOSTILE)}" if speaker.below(100) == 0 else "")
            )
            rendered["greetings"].append(speaker.say("greetings") + "\n\n")
            rendered["closings"].append("\n\n" + speaker.say("closings"))
            rendered["paragraphs"].append(speaker.paragraph())
            rendered["comments"].append(
                HOSTILE[speaker.below(len(HOSTILE))] if speaker.below(50) == 0 else speaker.say("sentences")
            )
            rendered["profiles"].append(speaker.profile(code))
    return Vocabulary(
        shares=[language["share"] for language in phrases.values()],
        codes=pool(phrases),
        offsets=pool([str(language["offset"]) for language in phrases.values()]),
        paragraphs_html=pool([html.escape(text) for text in rendered["paragraphs"]]),
        **{kind: pool(texts) for kind, texts in rendered.items()},
    )


@dataclass(frozen=True, slots=True)
class _Speaker:
    chance: Random
    language: dict[str, list[str]]
    products: list[str]

    def below(self, limit: int) -> int:
        """Only `random()` is promised to give the same numbers in every Python (manual of the `random` module)."""
        return int(self.chance.random() * limit)

    def one_of(self, options: Sequence[str]) -> str:
        return options[self.below(len(options))]

    def say(self, kind: str, number: int | None = None) -> str:
        phrases = self.language[kind]
        return phrases[(self.below(len(phrases)) if number is None else number) % len(phrases)].format(
            name=self.one_of(self.language["people"]),
            product=self.one_of(self.products),
            number=100_000 + self.below(900_000),
            code=f"{self.below(1 << 40):010X}",
            amount=f"{self.below(90_000) / 100:.2f}",
            date=f"2026-{1 + self.below(12):02}-{1 + self.below(28):02}",
            time=f"{self.below(24):02}:{self.below(60):02}",
        )

    def paragraph(self) -> str:
        first = self.below(len(self.language["sentences"]))
        sentences = [self.say("sentences", first + following) for following in range(1 + self.below(3))]
        if self.below(50) == 0:
            sentences.append(self.one_of(HOSTILE))
        elif self.below(12) == 0:
            sentences.append(self.one_of(EMOJI))
        return " ".join(sentences)

    def profile(self, code: str) -> str:
        members = {
            "Skill": f"{self.one_of(('billing', 'technical', 'sales', 'retention'))}_{code}",
            "RoutingTarget": f"VQ_{self.one_of(('north', 'south', 'night', 'overflow'))}_{self.below(40):03}",
            "Product": self.one_of(self.products),
            "Segment": self.one_of(("gold", "silver", "bronze", "business")),
            "Sentiment": (self.below(201) - 100) / 100,
            "WaitSeconds": self.below(30) ** 2,
            "Transferred": self.below(12) == 0,
            "Disposition": self.one_of(("Resolved", "Callback", "Escalated", "NoAnswer")),
            "Survey": {"nps": self.below(11)} if self.below(5) == 0 else None,
            "Tags": [self.one_of(("vip", "mahnung", "première", "重要", 'a"b', "c\\d")) for _ in range(self.below(3))],
        }
        return json.dumps(members, ensure_ascii=False)[1:-1]
