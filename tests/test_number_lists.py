"""Tests of dcgan_jax.machine.number_lists."""

import pytest

from dcgan_jax.machine.errors import UserError
from dcgan_jax.machine.number_lists import parse


def test_a_list_of_numbers_by_hand() -> None:
    assert parse("0,4,10-12") == [0, 4, 10, 11, 12]
    assert parse(" 7 , 7,3-3, 999999999") == [7, 7, 3, 999999999]
    assert len(parse("0-99999")) == 100_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is neither a number from 0 to 999,999,999 nor a range: write numbers as in 0,4,10-20."),
        ("1,,2", "'' is neither"),
        ("-1", "'-1' is neither"),
        ("1--3", "'1--3' is neither"),
        ("3-", "'3-' is neither"),
        ("1.5", "'1.5' is neither"),
        ("²", "'²' is neither"),
        ("1000000000", "'1000000000' is neither"),
        ("11-10", "the range 11-10 runs backwards: write 10-11."),
        ("0-100000", "'0-100000' makes more than 100,000 numbers"),
        ("5,0-99999", "'0-99999' makes more than 100,000 numbers"),
        ("0-99999,5", "'5' makes more than 100,000 numbers"),
    ],
)
def test_lists_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        parse(text)
    assert message in str(raised.value)
