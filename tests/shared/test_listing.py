import doctest

from shared import listing


def test_the_examples_in_the_docstrings_are_true() -> None:
    result = doctest.testmod(listing)
    assert (result.failed, result.attempted > 0) == (0, True)
