"""What devices tell each other: the collectives of a compiled program, read from its text.

`compiled.as_text()` is HLO: computations of one instruction a line. Which devices take part in a collective stands
there in one of three ways: as lists `{{0,1},{2,3}}`, as a reshaped and transposed count `[2,4]<=[8]`, or as axes of a
mesh `mesh['a'=2,'b'=4] {'b'}` that need not be ours. The numbers are places in the program's mesh, not device ids.
"""

import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip
INSTRUCTION = re.compile(rf"= (?P<shape>[^\"]*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.$-]+) (\(.*\) -> .*)?\{$")
CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?(?P<one>[\w.$-]+)"
    r"|\b(?:branch_computations|called_computations)=\{(?P<several>[^}]*)\}"
)
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
ARRAY = re.compile(r"\b(?P<dtype>[a-z]+(?P<bits>\d*)[a-z0-9]*)\[(?P<sizes>[\d,<=]*)\]")


class Collective(NamedTuple):
    """One collective of a program, as one device sees it.

    payload: bytes, in one run, of what a device gets (all-reduce, all-gather, all-to-all, collective-permute) or of
    what it puts in (reduce-scatter). group: how many devices take part together.
    axes: the axes of the mesh along which they lie. whole: they are all that lie along these axes.
    times: runs in one call of the program; None where it is in a loop whose length the program's text does not tell.
    """

    kind: str
    payload: int
    group: int
    axes: tuple[str, ...]
    whole: bool
    times: int | None

    @property
    def sent(self) -> float:
        """Bytes that each device sends in one call, by ring algorithms; a loop of unknown length counts once.

        Ring algorithms send the least that there can be: each of n devices passes on all but an n-th part, and twice
        where a sum has to come back to all. Source: Patarasuk & Yuan 2009, Bandwidth optimal all-reduce algorithms.
        """
        n = self.group
        share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": float(n > 1)}.get(self.kind, (n - 1) / n)
        return share * self.payload * (1 if self.times is None else self.times)


def collectives(text: str, mesh: dict[str, int]) -> list[Collective]:
    """The collectives that one call of a compiled program runs, from `compiled.as_text()`.

    mesh: sizes of the axes of the mesh that it was compiled for, in order. All branches of a conditional count, though
    one runs. Raises ValueError for a text that is no HLO, or whose groups of devices are written in an unknown way.
    """
    bodies, entry = computations(text)
    return [
        described(line, found, mesh, times)
        for line, times in executed(bodies, entry)
        if (found := INSTRUCTION.search(line))
    ]


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation of a program, and the name of the one that it begins with."""
    bodies: dict[str, list[str]] = {}
    entry = name = None
    for line in text.splitlines():
        if head := COMPUTATION.match(line):
            name = head["name"]
            bodies[name] = []
            entry = name if head["entry"] else entry
        elif line.startswith("}"):
            name = None
        elif name is not None:
            bodies[name].append(line)
    if entry is None:
        raise ValueError("this is no compiled program: its text has no ENTRY computation")
    return bodies, entry


def executed(bodies: dict[str, list[str]], name: str, times: int | None = 1) -> Iterator[tuple[str, int | None]]:
    """The lines that run when a computation is called, with how often; None: in a loop of unknown length."""
    for line in bodies[name]:
        yield line, times
        inner = times
        if " while(" in line:
            trips = TRIPS.search(line)
            inner = None if trips is None or times is None else times * int(trips[1])
        for found in CALLED.finditer(line):
            for called in re.findall(r"[\w.$-]+", found["one"] or found["several"]):
                yield from executed(bodies, called, inner)


def described(line: str, found: re.Match, mesh: dict[str, int], times: int | None) -> Collective:
    """A line of a program that holds a collective, as a record."""
    kind, groups = found["kind"], groups_of(line, math.prod(mesh.values()))
    group = max((len(set(each)) for each in groups), default=1)
    payload = size_of(found["shape"], kind, started=bool(found["start"]))
    if kind == "reduce-scatter":  # whose shape is that of one part
        payload *= group
    axes, whole = along(groups, mesh)
    return Collective(kind, payload, group, axes, whole or kind == "collective-permute", times)


def size_of(shape: str, kind: str = "", started: bool = False) -> int:
    """Bytes of what a shape describes: an array, or a tuple of them.

    started: it is the result of the first half of a collective in two halves: some are pairs of what goes in and what
    will come out, of which the latter counts.
    """
    shape = re.sub(r"\{[^{}]*\}|/\*.*?\*/", "", shape).strip()  # without layouts and comments
    if started and kind != "all-reduce":
        shape = parts(shape)[1]
    return sum(
        -(-math.prod(int(n.removeprefix("<=")) for n in array["sizes"].split(",") if n) * bits_of(array) // 8)
        for array in ARRAY.finditer(shape)
    )


def bits_of(array: re.Match) -> int:
    """Bits of one number: they stand in the name of its type, but for truth values; tokens and the like have none."""
    return int(array["bits"] or (8 if array["dtype"] == "pred" else 0))


def parts(shape: str) -> list[str]:
    """The members of a tuple, of which some may be tuples."""
    found, depth = [""], 0
    for letter in shape.strip()[1:-1]:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return found


def groups_of(line: str, devices: int) -> list[list[int]]:
    """The places in the mesh of the devices that take part together; of a permutation, who sends to whom."""
    if found := re.search(r"source_target_pairs=\{(\{.*?\})?\}", line):
        return lists_in(found[1] or "")
    if found := re.search(r"replica_groups=\{(\{.*?\})?\}", line):
        return lists_in(found[1]) if found[1] else [list(range(devices))]
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", line):
        return places_in(found[2]).reshape(integers(found[1])).tolist()
    if found := re.search(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?)\))? \{(.*?)\}", line):
        return groups_along(*found.groups())
    raise ValueError(f"a collective's groups of devices are written in an unknown way: {line.strip()[:200]}")


def groups_along(axes: str, order: str | None, along: str) -> list[list[int]]:
    """Groups from the axes of a mesh, `'a'=8,'b'=2`, the order of its devices, and the axes that a group lies along.

    Of an axis that may be a part: in `'a':(2)4` the axis is cut into 2 x 4 x what is left, and the 4 are meant.
    """
    wanted = re.findall(r"'?([\w.-]+)'?(?::\((\d+)\)(\d+))?", along)
    sizes, grouped = [], []
    for name, whole in re.findall(r"'?([\w.-]+)'?=(\d+)", axes):
        begun = {int(before or 1): int(size or whole) for axis, before, size in wanted if axis == name}
        cuts = sorted({1, int(whole), *begun, *(before * size for before, size in begun.items())})
        sizes += [high // low for low, high in itertools.pairwise(cuts)]
        grouped += [low in begun for low in cuts[:-1]]
    places = np.arange(math.prod(sizes)) if order is None else places_in(order)
    last = np.argsort(grouped, kind="stable")
    size = math.prod(n for n, inside in zip(sizes, grouped, strict=True) if inside)
    return places.reshape(sizes).transpose(last).reshape(-1, size).tolist()


def places_in(order: str) -> np.ndarray:
    """Places in the order that is written: one by one `0,2,1,3`, or counted, reshaped and transposed `[2,2]T(1,0)`."""
    if not (counted := re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", order)):
        return np.array(integers(order))
    places = np.arange(math.prod(integers(counted[1]))).reshape(integers(counted[1]))
    return places.transpose(integers(counted[2]) if counted[2] else None).reshape(-1)


def along(groups: list[list[int]], mesh: dict[str, int]) -> tuple[tuple[str, ...], bool]:
    """The axes of the mesh along which the groups lie, and whether each group is all that lie along these axes."""
    places = [np.array(np.unravel_index(group, tuple(mesh.values()))) for group in groups]
    differ = {name for at in places for name, row in zip(mesh, at, strict=True) if len(set(row.tolist())) > 1}
    axes = tuple(name for name in mesh if name in differ)
    return axes, all(len(group) == math.prod(mesh[name] for name in axes) for group in groups)


def lists_in(text: str) -> list[list[int]]:
    return [integers(each) for each in re.findall(r"\{([\d,]*)\}", text)]


def integers(text: str) -> list[int]:
    return [int(each) for each in text.split(",") if each]
