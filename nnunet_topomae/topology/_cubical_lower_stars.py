"""Lower stars of voxels as subsets of an octahedron, and all that can be looked up about such a subset.

A cell belongs to its highest voxel v. The edges, squares and cubes that belong to v, its lower star, correspond to
vertices, edges and triangles of an octahedron around v: an edge to one of six directions, a square to two of them on
different axes, a cube to three. Together they are the cone from v over the *lower link*, a subcomplex of the
octahedron's surface, and this subcomplex alone says how the sublevel set changes when v enters: without a link v is a
minimum; otherwise each component of the link but the first brings a critical edge, each independent loop a critical
square, and the full surface a critical cube. All other cells of a lower star can be paired so that they cancel (V.
Robins, P. J. Wood, A. P. Sheppard, "Theory and algorithms for constructing discrete Morse complexes from grayscale
digital images", TPAMI 2011). Here the pairs of edges and squares come from a spanning forest of the link's graph and
those of squares and cubes from one of its dual graph; on a sphere this leaves as few critical cells as homology
allows.

Numbering. Directions -x, +x, -y, +y, -z, +z are 0..5, so that d ^ 1 is opposite to d. Squares: positions in SQUARES.
Cubes: bit a of the number is set if the cube lies on the positive side of axis a (x, y, z). A set of them is an
integer, one bit each.

Which edge is paired with v itself is a matter of choice. It is the first node of the first component of two nodes or
more, its root, and only where there is none the first node: the link's graph alone says which.
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ._cubical_ranks import BORDER_RANK, INDEX_BITS, row_start
from ._jit import inline, jit, leading_zeros, pointer

STEPS = ((0, 0, -1), (0, 0, 1), (0, -1, 0), (0, 1, 0), (-1, 0, 0), (1, 0, 0))  # (z, y, x) of each direction
SQUARES = tuple(pair for pair in combinations(range(6), 2) if pair[0] ^ 1 != pair[1])
CUBES = tuple((k & 1, 2 + (k >> 1 & 1), 4 + (k >> 2)) for k in range(8))
CUBES_OF_SQUARE = np.array([[k for k in range(8) if {*square} <= {*CUBES[k]}] for square in SQUARES])
EDGES_OF_SQUARE = np.array([1 << a | 1 << b for a, b in SQUARES])

# A voxel's record, an int64, from the lowest bit: 6 bits of a chain, 12 of squares, a flag, 6 of edges, 8 of cubes, 30
# of rank. Chain and flag are the workspace of dimension 1, which keeps but those edges that join components. The rank
# stands highest so that records compare as ranks do.
CHAIN = (1 << 6) - 1
SQUARE_SHIFT = 6
QUEUED = 1 << 18
EDGE_SHIFT = 19
CUBE_SHIFT = 25
RANK_SHIFT = 33
MAX_GRID_SIZE = 1 << INDEX_BITS  # the border ranks above every voxel, so that no cell reaches into it


@inline
def squares_of(record):
    return record >> SQUARE_SHIFT & 4095


@inline
def edges_of(record):
    return record >> EDGE_SHIFT & 63


@inline
def cubes_of(record):
    return record >> CUBE_SHIFT & 255


@inline
def rank_of(record):
    return record >> RANK_SHIFT


class Grid(NamedTuple):
    """A volume's voxels with a border of one voxel on each side, in C order, and the way from one to its neighbours.

    Attributes:
        depth, height, width: without the border.
        direction: [6] offset of the neighbour in each direction.
        square: [12] offset of the corner of each square that is opposite to the voxel.
        cube: [8] the same for each cube.
        cube_index: [8] offset of the lowest corner of each cube, by which cubes are numbered.
        far_edges: [12, 2, 3] for the two edges of each square that do not touch the voxel: the offset of the end near
            the voxel, and the edge's bit at that end and at the other one, the corner opposite to the voxel.
    """

    depth: int
    height: int
    width: int
    direction: np.ndarray
    square: np.ndarray
    cube: np.ndarray
    cube_index: np.ndarray
    far_edges: np.ndarray

    @property
    def size(self) -> int:
        return (self.depth + 2) * (self.height + 2) * (self.width + 2)


@lru_cache
def grid_of(shape: tuple[int, int, int]) -> Grid:
    _, height, width = shape
    direction = np.array(STEPS) @ np.array([(height + 2) * (width + 2), width + 2, 1])
    cubes = direction[np.array(CUBES)]
    grid = Grid(
        *shape,
        direction=direction,
        square=direction[np.array(SQUARES)].sum(axis=1),
        cube=cubes.sum(axis=1),
        cube_index=np.minimum(cubes, 0).sum(axis=1),
        far_edges=np.array(
            [[(direction[near], 1 << step, 1 << (step ^ 1)) for near, step in ((a, b), (b, a))] for a, b in SQUARES]
        ),
    )
    if grid.size > MAX_GRID_SIZE:
        raise ValueError(f"a volume of shape {shape} is too large: with a border it exceeds {MAX_GRID_SIZE} voxels")
    return grid


class Tables(NamedTuple):
    """What follows from a lower star's squares S (12 bits), edges E (6 bits) and cubes C (8 bits).

    The link's graph has the six directions as nodes and S as edges. Tables by S and C have values only where S holds
    the squares of each cube in C.

    Attributes:
        squares_between: [E] the squares whose two edges are in E.
        cubes_between: [S] the cubes whose three squares are in S.
        first_edges: [S] uint8, the first node of each component of the graph.
        root: [S] uint8, as a set, the root of the graph; empty where S is.
        forest: [S] the edges of a spanning forest of the graph.
        fill: [S << 6 | B] for a set B of edges: a smallest set of squares with boundary B, or B and the root; but where
            another component than the root's has an odd number of nodes in B, ODD plus the first node of the last such.
        critical: [C << 12 | S] the squares that are neither in the forest nor paired with a cube.
        way_out: [C << 12 | S] three bits a cube: the octant without a cube to which paired squares lead from there, or
            the critical cube where C is full.
    """

    squares_between: np.ndarray
    cubes_between: np.ndarray
    first_edges: np.ndarray
    root: np.ndarray
    forest: np.ndarray
    fill: np.ndarray
    critical: np.ndarray
    way_out: np.ndarray


ODD = 1 << 15


@cache
def tables() -> Tables:
    squares = np.array(SQUARES)
    squares_between = _contained(EDGES_OF_SQUARE, 6)
    squares_of_cube = [sum(1 << s for s in range(12) if k in CUBES_OF_SQUARE[s]) for k in range(8)]
    cubes_between = _contained(squares_of_cube, 12)
    first_edges, root, forest = _forests(squares)
    fill = _fills(squares, first_edges, root)
    critical, way_out = _cube_pairings(CUBES_OF_SQUARE, forest, cubes_between)
    return Tables(squares_between, cubes_between, first_edges, root, forest, fill, critical, way_out)


def _contained(parts: list[int] | np.ndarray, bits: int) -> np.ndarray:
    """[2**bits] for each set, bit k for whether parts[k] is a subset."""
    sets = np.arange(1 << bits)
    return sum(((sets & part) == part).astype(np.int32) << k for k, part in enumerate(parts))


@jit
def _forests(squares):
    first_edges = np.zeros(1 << 12, np.uint8)
    root = np.zeros(1 << 12, np.uint8)
    forest = np.zeros(1 << 12, np.int32)
    component = np.empty(6, np.int64)
    for s in range(1 << 12):
        component[:] = np.arange(6)
        for k in range(12):
            a, b = component[squares[k, 0]], component[squares[k, 1]]
            if s >> k & 1 and a != b:
                forest[s] |= 1 << k
                component[component == max(a, b)] = min(a, b)
        for node in range(5, -1, -1):
            first_edges[s] |= 1 << component[node]
            if np.any(component[node + 1 :] == node):
                root[s] = 1 << node
    return first_edges, root, forest


@jit
def _fills(squares, first_edges, root):
    fill = np.full(1 << 18, ODD, np.uint16)
    queue = np.empty(64, np.int64)
    for s in range(1 << 12):
        row = fill[s << 6 : (s + 1) << 6]
        # Breadth-first search over sets of edges from the empty one: a step adds the boundary of one square.
        row[0] = 0
        queue[0] = 0
        head, tail = 0, 1
        while head < tail:
            b = queue[head]
            head += 1
            for k in range(12):
                further = b ^ (1 << squares[k, 0]) ^ (1 << squares[k, 1])
                if s >> k & 1 and row[further] == ODD:
                    row[further] = row[b] ^ (1 << k)
                    queue[tail] = further
                    tail += 1
        # Any other set becomes fillable by the first nodes of those components in which it is odd.
        fillable = row.copy()
        for b in range(64):
            if fillable[b] == ODD:
                for odd in range(64):
                    if odd & ~first_edges[s] == 0 and fillable[b ^ odd] < ODD:
                        others = odd & ~root[s]
                        row[b] = ODD + 63 - leading_zeros(others) if others else fillable[b ^ odd]
    return fill


@jit
def _cube_pairings(cubes_of_square, forest, cubes_between):
    """Pair cubes with squares outside the forest, by a search from the octants without a cube, or else from one cube.

    A square leads from one octant to another; a cube is paired with the square through which the search reaches it.
    """
    critical = np.zeros(1 << 20, np.uint16)
    way_out = np.zeros(1 << 20, np.int32)
    queue = np.empty(8, np.int64)
    source = np.empty(8, np.int64)
    for s in range(1 << 12):
        for c in range(1 << 8):
            if c & ~cubes_between[s]:
                continue
            unpaired = s & ~forest[s]
            source[:] = -1
            head, tail = 0, 0
            for octant in range(8):
                if not c >> octant & 1 or (c == 255 and octant == 0):
                    source[octant] = octant
                    queue[tail] = octant
                    tail += 1
            while head < tail:
                octant = queue[head]
                head += 1
                for k in range(12):
                    a, b = cubes_of_square[k]
                    beyond = a + b - octant
                    if unpaired >> k & 1 and (octant == a or octant == b) and source[beyond] < 0:  # noqa: SIM109
                        source[beyond] = source[octant]
                        unpaired ^= 1 << k
                        queue[tail] = beyond
                        tail += 1
            critical[c << 12 | s] = unpaired
            for octant in range(8):
                way_out[c << 12 | s] |= source[octant] << (3 * octant)
    return critical, way_out


@jit
def set_records(records, rank, grid, squares_between, cubes_between):
    """Write each voxel's record, with an empty chain, to `records` [grid.size]; the border's have no lower star."""
    records[:] = BORDER_RANK << RANK_SHIFT
    offsets = np.concatenate((grid.direction, grid.square, grid.cube))
    lower = np.empty(grid.width, np.int32)
    records, rank = pointer(records), pointer(rank)
    for z in range(grid.depth):
        for y in range(grid.height):
            start = row_start(z, y, grid.height, grid.width)
            lower[:] = 0
            # Two neighbours of a whole row at a time, and no shift by a variable: vector instructions, on 32 bits each.
            for k in range(0, 26, 2):
                first, second, bit = start + offsets[k], start + offsets[k + 1], 1 << k
                for x in range(grid.width):
                    here = rank[start + x]
                    lower[x] |= (bit if rank[first + x] < here else 0) | (2 * bit if rank[second + x] < here else 0)
            for x in range(grid.width):
                edges = np.int64(lower[x] & 63)
                squares = np.int64(lower[x] >> 6 & squares_between[edges])
                cubes = np.int64(lower[x] >> 18 & cubes_between[squares])
                star = cubes << CUBE_SHIFT | edges << EDGE_SHIFT | squares << SQUARE_SHIFT
                records[start + x] = np.int64(rank[start + x]) << RANK_SHIFT | star
