"""The persistent sorted map behaves as a dict that is sorted anew each time, and old versions stay as they were."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from factory.scheduling.persistent import SortedMap, sorted_map

steps = st.lists(st.tuples(st.booleans(), st.integers(0, 150)), max_size=300)


@settings(max_examples=150, deadline=None)
@given(start=st.sets(st.integers(0, 150)), steps=steps)
def test_it_answers_like_a_dict_sorted_anew(start: set[int], steps: list[tuple[bool, int]]) -> None:
    plain = {key: -key for key in start}
    kept: SortedMap[int, int] = sorted_map(plain.items())
    versions = [(kept, dict(plain))]
    for serial, (inserts, key) in enumerate(steps):
        if inserts:
            plain[key] = serial
            kept = kept.insert(key, serial)
        else:
            plain.pop(key, None)
            kept = kept.discard(key)
        versions.append((kept, dict(plain)))
    for version, expected in versions[:: max(1, len(versions) // 10)]:
        assert list(version.items()) == sorted(expected.items())
        assert list(version.keys()) == sorted(expected)
        assert list(version.values()) == [expected[key] for key in sorted(expected)]
        assert len(version) == len(expected)
        assert bool(version) == bool(expected)
        assert version.first() == (min(expected.items()) if expected else None)
        for key in range(-1, 152, 17):
            assert version.get(key) == expected.get(key)
            assert version.rank(key) == sum(1 for other in expected if other < key)


def test_ten_thousand_keys_leave_through_the_front_and_come_in_at_the_back() -> None:
    line: SortedMap[int, str] = SortedMap()
    for number in range(10_000):
        line = line.insert(number, "job")
        if number >= 100:
            line = line.discard(number - 100)
    assert list(line.keys()) == list(range(9_900, 10_000))
    assert line.rank(9_950) == 50


def test_discarding_what_is_not_there_gives_the_same_map() -> None:
    line = sorted_map([(1, "a"), (3, "b")])
    assert line.discard(2) is line


def test_maps_are_equal_when_their_items_are_however_they_were_made() -> None:
    grown: SortedMap[int, int] = SortedMap()
    for key in reversed(range(100)):
        grown = grown.insert(key, key)
    assert grown == sorted_map((key, key) for key in range(100))
    assert grown != grown.insert(5, 0)
