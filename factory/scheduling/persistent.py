"""Persistent containers: a change gives a new value and leaves the old one as it was, sharing all that did not change.

`Trie` maps by hash (the only door to `rpds`, a hash-array-mapped trie): O(log n) a change, no order. `SortedMap` is a
B+ tree with subtree sizes: O(log n) a change, iterates in key order, and knows a key's rank, which is the position of
a job in its queue. Iterate over a `Trie` only sorted, or where the order cannot matter.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from rpds import HashTrieMap as Trie

__all__ = ["SortedMap", "Trie", "sorted_map"]


class Ordered(Protocol):
    """A key that compares with its like."""

    def __lt__(self, other: Any, /) -> bool: ...


K = TypeVar("K", bound=Ordered)
V = TypeVar("V")

_MOST = 32  # entries of a node; more splits it
_FEWEST = 8  # fewer merges it with a neighbour


@dataclass(frozen=True, slots=True)
class _Leaf(Generic[K, V]):
    keys: tuple[K, ...]
    values: tuple[V, ...]

    @property
    def size(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class _Branch(Generic[K, V]):
    keys: tuple[K, ...]  # the least key of each child
    children: tuple[_Leaf[K, V] | _Branch[K, V], ...]
    size: int  # entries in all leaves below


_Node: TypeAlias = _Leaf[K, V] | _Branch[K, V]


class SortedMap(Generic[K, V]):
    """A persistent map in key order.

    >>> waiting = sorted_map([(2, "b"), (1, "a")])
    >>> list(waiting.discard(1).insert(3, "c").items()), list(waiting.items()), waiting.rank(2)
    ([(2, 'b'), (3, 'c')], [(1, 'a'), (2, 'b')], 1)
    """

    __slots__ = ("_root",)

    def __init__(self, root: _Node[K, V] | None = None) -> None:
        self._root: _Node[K, V] | None = root

    def __len__(self) -> int:
        return self._root.size if self._root is not None else 0

    def __bool__(self) -> bool:
        return self._root is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SortedMap) and list(self.items()) == list(other.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]  # isinstance cannot name K, V

    __hash__ = None  # pyright: ignore[reportAssignmentType, reportUnannotatedClassAttribute]  # values need not be hashable

    def get(self, key: K) -> V | None:
        """Return the value of `key`, or None."""
        node = self._root
        while isinstance(node, _Branch):
            node = node.children[_child(node, key)]
        if node is None:
            return None
        at = bisect_left(node.keys, key)
        return node.values[at] if at < len(node.keys) and node.keys[at] == key else None

    def insert(self, key: K, value: V) -> SortedMap[K, V]:
        """Return the map with `key` set to `value`."""
        if self._root is None:
            return SortedMap(_Leaf((key,), (value,)))
        return SortedMap(_joined(_insert(self._root, key, value)))

    def discard(self, key: K) -> SortedMap[K, V]:
        """Return the map without `key`; the same map if it is not there."""
        if self._root is None:
            return self
        root = _discard(self._root, key)
        if root is self._root:
            return self
        while isinstance(root, _Branch) and len(root.children) == 1:
            root = root.children[0]
        return SortedMap(root)

    def rank(self, key: K) -> int:
        """Return how many keys are less than `key`."""
        before, node = 0, self._root
        while isinstance(node, _Branch):
            at = _child(node, key)
            before += sum(child.size for child in node.children[:at])
            node = node.children[at]
        return before + (bisect_left(node.keys, key) if node is not None else 0)

    def after(self, key: K) -> Iterator[tuple[K, V]]:
        """Iterate over the items whose keys are greater than `key`, in order."""
        stack: list[_Node[K, V]] = [] if self._root is None else [self._root]
        while stack:
            node = stack.pop()
            at = bisect_right(node.keys, key)
            if isinstance(node, _Leaf):
                yield from zip(node.keys[at:], node.values[at:], strict=True)
            else:
                stack.extend(reversed(node.children[max(at - 1, 0) :]))

    def first(self) -> tuple[K, V] | None:
        """Return the item with the least key."""
        node = self._root
        while isinstance(node, _Branch):
            node = node.children[0]
        return None if node is None else (node.keys[0], node.values[0])

    def items(self) -> Iterator[tuple[K, V]]:
        """Iterate over (key, value) in key order."""
        for leaf in _leaves(self._root):
            yield from zip(leaf.keys, leaf.values, strict=True)

    def keys(self) -> Iterator[K]:
        """Iterate over the keys in order."""
        for leaf in _leaves(self._root):
            yield from leaf.keys

    def values(self) -> Iterator[V]:
        """Iterate over the values in key order."""
        for leaf in _leaves(self._root):
            yield from leaf.values


def sorted_map(items: Iterable[tuple[K, V]]) -> SortedMap[K, V]:
    """Build from items with different keys, in any order: O(n) beside the sorting."""
    entries = sorted(items, key=lambda item: item[0])
    fill = (_MOST + _FEWEST) // 2
    level: list[_Node[K, V]] = [
        _Leaf(tuple(k for k, _ in entries[i : i + fill]), tuple(v for _, v in entries[i : i + fill]))
        for i in range(0, len(entries), fill)
    ]
    while len(level) > 1:
        level = [_branch(tuple(level[i : i + fill])) for i in range(0, len(level), fill)]
    return SortedMap(level[0] if level else None)


def _leaves(root: _Node[K, V] | None) -> Iterator[_Leaf[K, V]]:
    stack = [root] if root is not None else []
    while stack:
        node = stack.pop()
        if isinstance(node, _Leaf):
            yield node
        else:
            stack.extend(reversed(node.children))


def _child(node: _Branch[K, V], key: K) -> int:
    return max(bisect_right(node.keys, key) - 1, 0)


def _branch(children: tuple[_Node[K, V], ...]) -> _Branch[K, V]:
    return _Branch(tuple(c.keys[0] for c in children), children, sum(c.size for c in children))


def _joined(parts: tuple[_Node[K, V], ...]) -> _Node[K, V]:
    return parts[0] if len(parts) == 1 else _branch(parts)


def _leaf_parts(keys: tuple[K, ...], values: tuple[V, ...]) -> tuple[_Node[K, V], ...]:
    if len(keys) <= _MOST:
        return (_Leaf(keys, values),)
    half = len(keys) // 2
    return (_Leaf(keys[:half], values[:half]), _Leaf(keys[half:], values[half:]))


def _branch_parts(children: tuple[_Node[K, V], ...]) -> tuple[_Node[K, V], ...]:
    if len(children) <= _MOST:
        return (_branch(children),)
    half = len(children) // 2
    return (_branch(children[:half]), _branch(children[half:]))


def _insert(node: _Node[K, V], key: K, value: V) -> tuple[_Node[K, V], ...]:
    """Return the one or two nodes that replace `node`."""
    if isinstance(node, _Leaf):
        at = bisect_left(node.keys, key)
        if at < len(node.keys) and node.keys[at] == key:
            return (_Leaf(node.keys, (*node.values[:at], value, *node.values[at + 1 :])),)
        return _leaf_parts((*node.keys[:at], key, *node.keys[at:]), (*node.values[:at], value, *node.values[at:]))
    at = _child(node, key)
    return _branch_parts((*node.children[:at], *_insert(node.children[at], key, value), *node.children[at + 1 :]))


def _discard(node: _Node[K, V], key: K) -> _Node[K, V] | None:
    """Return the node without `key`: itself if it was not there, None if nothing is left."""
    if isinstance(node, _Leaf):
        at = bisect_left(node.keys, key)
        if at == len(node.keys) or node.keys[at] != key:
            return node
        keys = (*node.keys[:at], *node.keys[at + 1 :])
        return _Leaf(keys, (*node.values[:at], *node.values[at + 1 :])) if keys else None
    at = _child(node, key)
    old = node.children[at]
    new = _discard(old, key)
    if new is old:
        return node
    low, high, fresh = at, at + 1, () if new is None else (new,)
    if new is not None and len(new.keys) < _FEWEST and len(node.children) > 1:
        low = max(at - 1, 0)
        high = low + 2
        pair = (node.children[low], new) if low < at else (new, node.children[at + 1])
        fresh = _merged(*pair)
    children = (*node.children[:low], *fresh, *node.children[high:])
    return _branch(children) if children else None


def _merged(left: _Node[K, V], right: _Node[K, V]) -> tuple[_Node[K, V], ...]:
    """Join two neighbours of one height, or share their entries evenly."""
    if isinstance(left, _Leaf) and isinstance(right, _Leaf):
        return _leaf_parts((*left.keys, *right.keys), (*left.values, *right.values))
    assert isinstance(left, _Branch)
    assert isinstance(right, _Branch)
    return _branch_parts((*left.children, *right.children))
