"""The persistent sorted map at its seams: splits, merges, ranks, and what comes after a key."""

from __future__ import annotations

import pytest

from factory.scheduling.persistent import SortedMap, sorted_map

SIZES = (0, 1, 2, 7, 8, 9, 19, 20, 21, 31, 32, 33, 64, 65, 399, 400, 401, 1000)


def numbers(count: int, step: int = 2) -> SortedMap[int, str]:
    """The even numbers below 2 x count."""
    return sorted_map((key, f"v{key}") for key in range(0, count * step, step))


def grown(count: int) -> SortedMap[int, str]:
    held: SortedMap[int, str] = SortedMap()
    for key in range(0, count * 2, 2):
        held = held.insert(key, f"v{key}")
    return held


@pytest.mark.parametrize("size", SIZES)
def test_it_holds_what_was_put_in_however_it_grew(size: int) -> None:
    for held in (numbers(size), grown(size)):
        assert list(held.keys()) == list(range(0, size * 2, 2))
        assert list(held.values()) == [f"v{key}" for key in range(0, size * 2, 2)]
        assert len(held) == size
        assert bool(held) is (size > 0)
        assert held.first() == ((0, "v0") if size else None)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_greater_than_a_key_comes_after_it(size: int) -> None:
    for held in (numbers(size), grown(size)):
        for key in range(-1, size * 2 + 2, max(1, size // 12)):
            assert [found for found, _ in held.after(key)] == [each for each in range(0, size * 2, 2) if each > key]


@pytest.mark.parametrize("size", SIZES)
def test_a_key_is_ranked_by_how_many_are_less(size: int) -> None:
    for held in (numbers(size), grown(size)):
        for key in range(-1, size * 2 + 2, max(1, size // 12)):
            assert held.rank(key) == sum(each < key for each in range(0, size * 2, 2))


@pytest.mark.parametrize("size", SIZES)
def test_keys_that_are_there_are_found_and_others_are_not(size: int) -> None:
    for held in (numbers(size), grown(size)):
        assert [held.get(key) for key in range(-1, size * 2)] == [
            f"v{key}" if key >= 0 and key % 2 == 0 else None for key in range(-1, size * 2)
        ]


@pytest.mark.parametrize("order", ["front", "back", "middle", "scattered"])
@pytest.mark.parametrize("size", [1, 9, 33, 400, 401])
def test_keys_leave_one_by_one_in_any_order(size: int, order: str) -> None:
    keys = list(range(0, size * 2, 2))
    leaving = {
        "front": keys,
        "back": keys[::-1],
        "middle": keys[size // 2 :] + keys[: size // 2][::-1],
        "scattered": sorted(keys, key=lambda key: key * 7919 % 1009),
    }[order]
    for held in (numbers(size), grown(size)):
        left, there = held, set(keys)
        for at, key in enumerate(leaving):
            left = left.discard(key)
            there.discard(key)
            assert len(left) == len(there)
            assert left.get(key) is None
            if at % max(1, size // 20) == 0:
                assert list(left.keys()) == sorted(there)
                assert left.rank(key) == sum(each < key for each in there)
                assert [found for found, _ in left.after(key)] == sorted(each for each in there if each > key)
        assert not left
        assert left.first() is None
        assert list(held.keys()) == keys  # the old one is as it was


@pytest.mark.parametrize("size", [1, 9, 33, 400])
def test_what_is_not_there_cannot_leave(size: int) -> None:
    held = numbers(size)
    for key in (-1, 1, size, size * 2 + 1):
        if key % 2:
            assert held.discard(key) is held
    assert SortedMap[int, str]().discard(3) == SortedMap[int, str]()


@pytest.mark.parametrize("size", [1, 9, 33, 400])
def test_a_value_is_replaced_in_its_place(size: int) -> None:
    held = numbers(size)
    for key in {0, size // 2 * 2, (size - 1) * 2}:
        changed = held.insert(key, "new")
        assert changed.get(key) == "new"
        assert held.get(key) == f"v{key}"
        assert len(changed) == size
        assert list(changed.keys()) == list(held.keys())
        assert changed != held


def test_keys_that_come_in_at_the_front_go_to_the_front() -> None:
    held: SortedMap[int, int] = SortedMap()
    for key in reversed(range(500)):
        held = held.insert(key, key)
        assert held.first() == (key, key)
        assert held.rank(key) == 0
    assert list(held.keys()) == list(range(500))


def test_a_map_that_shrank_grows_again() -> None:
    held = numbers(500)
    for key in range(0, 990, 2):
        held = held.discard(key)
    assert list(held.keys()) == [990, 992, 994, 996, 998]
    for key in range(1, 300, 2):
        held = held.insert(key, "odd")
    assert list(held.keys()) == [*range(1, 300, 2), 990, 992, 994, 996, 998]
    assert held.rank(990) == 150


def test_nodes_stay_within_their_bounds() -> None:
    """Neither lookups nor changes degrade: leaves of 8 to 32 entries, so five thousand keys lie three deep."""
    held = grown(5000)
    for key in range(0, 10_000, 6):
        held = held.discard(key)
    sizes, depth, level = [], 0, [held._root]
    while level:
        depth += 1
        sizes += [len(node.keys) for node in level if node is not None and depth > 1]
        level = [child for node in level for child in getattr(node, "children", ())]
    assert depth == 3
    assert max(sizes) <= 32
    assert min(sizes) >= 8


def test_maps_compare_by_their_items() -> None:
    assert numbers(40) == grown(40)
    assert numbers(40) != numbers(41)
    assert numbers(3) != [(0, "v0"), (2, "v2"), (4, "v4")]
    with pytest.raises(TypeError):
        hash(numbers(3))
