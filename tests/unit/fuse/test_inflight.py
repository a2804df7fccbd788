"""Tokens: never 0, never shared, gone with the reply."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from guestmemfs_fuse.fuse import abi
from guestmemfs_fuse.fuse.hooks import Request
from guestmemfs_fuse.fuse.inflight import InFlight, InFlightTable
from guestmemfs_fuse.fuse.wire import RequestHeader

LAST_TOKEN = 2**31 - 1


def header(unique: int, pid: int = 4711) -> RequestHeader:
    return RequestHeader(40, 3, unique, 7, 1000, 100, pid)


def kept(table: InFlightTable, unique: int, *, now_ns: int) -> InFlight:
    entry = table.begin(header(unique), now_ns)
    table.keep(entry)
    return entry


def test_a_token_leads_to_the_request_until_it_is_answered() -> None:
    table = InFlightTable()
    entry = kept(table, 10, now_ns=5)
    assert table.find(entry.token) == Request(10, False, 7, 1000, 100, 4711)
    assert table.pop(10) == entry
    assert table.find(entry.token) is None
    assert table.pop(10) is None


def test_a_resent_request_keeps_its_number_and_its_reply_the_bit() -> None:
    table = InFlightTable()
    entry = kept(table, 10 | abi.UNIQUE_RESEND, now_ns=5)
    assert (entry.request.unique, entry.request.resent) == (10, True)
    assert entry.raw_unique == 10 | abi.UNIQUE_RESEND
    assert table.get(10) is None
    assert table.pop(entry.raw_unique) == entry


def test_tokens_wrap_and_pass_over_those_in_use() -> None:
    table = InFlightTable(first_token=1)
    assert kept(table, 2, now_ns=0).token == 1
    wrapping = InFlightTable(first_token=LAST_TOKEN)
    tokens = [kept(wrapping, unique, now_ns=0).token for unique in (2, 4, 6)]
    assert tokens == [LAST_TOKEN, 1, 2]
    wrapping.pop(4)
    again = InFlightTable(first_token=LAST_TOKEN)
    token = kept(again, 2, now_ns=0).token
    again._next_token = token  # as after two billion requests
    assert kept(again, 4, now_ns=0).token == 1


@given(answered=st.lists(st.booleans(), max_size=50), first=st.integers(LAST_TOKEN - 5, LAST_TOKEN))
def test_no_two_live_requests_share_a_token(answered: list[bool], first: int) -> None:
    table = InFlightTable(first_token=first)
    live = {}
    for number, is_answered in enumerate(answered):
        entry = kept(table, 2 * number + 2, now_ns=number)
        assert 0 < entry.token <= LAST_TOKEN
        assert entry.token not in live
        if is_answered:
            table.pop(entry.raw_unique)
        else:
            live[entry.token] = entry
    assert len(table) == len(live)
    assert all(table.find(token) == entry.request for token, entry in live.items())


def test_the_oldest_request_tells_how_long_it_waits() -> None:
    table = InFlightTable()
    assert table.oldest_age_ns(100) == 0
    kept(table, 2, now_ns=40)
    kept(table, 4, now_ns=70)
    assert table.oldest_age_ns(100) == 60
