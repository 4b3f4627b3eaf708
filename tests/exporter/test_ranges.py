"""Range headers against a model of RFC 9110, 14.1.2 that asks of every single byte whether it is wanted."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.exporter.api.ranges import Unsatisfiable, known, unchanged, wanted

SIZES = st.integers(0, 12)
NUMBERS = st.integers(0, 20) | st.integers(10**17, 10**30)


def answered(text: str | None, size: int) -> list[int] | str:
    """The positions that are sent, or what else is done."""
    try:
        span = wanted(text, size)
    except Unsatisfiable:
        return "416"
    return "whole" if span is None else list(span)


@given(first=NUMBERS, last=NUMBERS | st.none(), size=SIZES, zeros=st.integers(0, 3))
def test_an_int_range_is_the_positions_from_first_to_last(first: int, last: int | None, size: int, zeros: int) -> None:
    text = f"bytes={'0' * zeros}{first}-{'' if last is None else last}"

    if last is not None and last < first:
        expected: list[int] | str = "whole"  # invalid
    else:
        expected = [at for at in range(size) if first <= at and (last is None or at <= last)] or "416"

    assert answered(text, size) == expected


@given(length=NUMBERS, size=SIZES)
def test_a_suffix_range_is_the_last_positions(length: int, size: int) -> None:
    if length == 0:
        expected: list[int] | str = "416"
    else:
        expected = [at for at in range(size) if size - at <= length] or "whole"  # nothing can't be told as a range

    assert answered(f"bytes=-{length}", size) == expected


@given(
    text=st.one_of(
        st.text("0123456789-,= bytesBYTES\t\xb2x", max_size=30),
        st.text(max_size=30),
        st.text("0123456789-, ", max_size=20).map("bytes={}".format),
    ),
    size=SIZES,
)
@example("bytes=" + "9" * 5000 + "-", 10)
def test_whatever_comes_is_a_range_inside_the_file_or_the_whole_or_refused(text: str, size: int) -> None:
    answer = answered(text, size)

    assert answer in ("whole", "416") or answer == list(range(answer[0], answer[-1] + 1))  # pyright: ignore
    if isinstance(answer, list):
        assert 0 <= answer[0] <= answer[-1] < size


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (None, "whole"),
        ("", "whole"),
        ("bytes=0-0", [0]),
        ("BYTES=0-0", [0]),
        ("bytes=, 1-2 ,", [1, 2]),
        ("bytes=0-1,3-4", "whole"),
        ("bytes=0-1,99-", "whole"),
        ("bytes", "whole"),
        ("bytes=", "whole"),
        ("bytes=5", "whole"),
        ("bytes=-", "whole"),
        ("bytes=--1", "whole"),
        ("bytes=+1-2", "whole"),
        ("bytes=1_0-", "whole"),
        ("bytes=0x1-", "whole"),
        ("bytes=١-٢", "whole"),
        ("bytes=1 - 2", "whole"),
        ("bytes = 1-2", "whole"),
        ("lines=1-2", "whole"),
    ],
)
def test_what_is_no_single_range_of_bytes_is_answered_with_the_whole(text: str | None, answer: list[int] | str) -> None:
    assert answered(text, 10) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [(None, True), ('"a"', True), (' "a" ', True), ('"b"', False), ('W/"a"', False), ("*", False),
     ("Sat, 29 Oct 1994 19:43:31 GMT", False)],
)  # fmt: skip
def test_a_range_is_taken_only_from_the_very_same_bytes(text: str | None, answer: bool) -> None:
    assert unchanged(text, '"a"') is answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [(None, False), ('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False), ("a", False),
     ('"a', False), ("", False), ('"aa"', False)],
)  # fmt: skip
def test_a_caller_that_names_the_tag_has_the_file(text: str | None, answer: bool) -> None:
    assert known(text, '"a"') is answer
