"""The auction that matches two persistence diagrams, and the certificate of what it found.

Both diagrams are kd-trees in the coordinates u (along the diagonal) and v (distance from it). Their weights are
potentials, f of a's points and h of b's. They are feasible when

    f_i + h_j ≤ |a_i − b_j|²,    f_i ≤ v_i²,    h_j ≤ v_j²,

and then Σ f + Σ h ≤ W2²: add up the pairs and the points alone of any matching. In the auction's words b's points are
objects at the prices v_j² − h_j, and the object that a bidder likes best has the largest h_j − |a_i − b_j|², or is the
diagonal, at −v_i². Potentials start at 0 and end near it, where their sum loses less to rounding than prices would.

A bidder overbids by ε_i = rate · v_i. A larger ε makes fewer bids and a larger error, about a tenth of Σ ε. With ε in
proportion to persistence, the few large classes, which have most to settle, do not wait for steps made for noise, and
classes with v_i < rate do not bid at all.

Sources:
    D. P. Bertsekas, *Auction algorithms for network flow problems: a tutorial introduction*, Computational Optimization
    and Applications 1, 1992: Gauss–Seidel bids, ε-scaling.
    D. P. Bertsekas, D. A. Castañon, *A forward/reverse auction algorithm for asymmetric assignment problems*, ibid.
    M. Kerber, D. Morozov, A. Nigmetov, *Geometry helps to compare persistence diagrams*, ACM Journal of Experimental
    Algorithmics 22, 2017: bids by kd-trees over weighted points.
"""

from __future__ import annotations

import numpy as np

from ._jit import inline, jit
from ._kdtree import (
    LIFT,
    TOP,
    best_two,
    largest_weight,
    refresh,
    refresh_all,
    row_of,
    set_weight,
    squared_place_distance,
    u_of,
    v_of,
    waiting_room,
    weight_of,
)

ULP = 2.0**-52


@inline
def squared_distance(a, i, b, j):
    du, dv = u_of(a, i) - u_of(b, j), v_of(a, i) - v_of(b, j)
    return du * du + dv * dv + squared_place_distance(a, i, b, j)


@inline
def to_diagonal(tree, slot):
    return v_of(tree, slot) ** 2


@jit
def conjugate(a, b, partner, lifted):
    """Raise a's potentials as far as b's allow: f_i = min(v_i², min_j |a_i − b_j|² − h_j), which makes both feasible.

    The search for j starts at i's partner, where there is one.

    Returns Σ f in two parts, the sum and what its rounding left behind (Kahan, Neumaier), and a bound of the rounding
    error of the terms. With unit roundoff ε, |a_i − b_j|² − h_j is computed to within (5 + d) ε (|f_i| + |h_j|): four
    errors of the squared distance, itself at most |f_i| + |h_j|, one for each of d coordinates of a place, and one of
    each difference. Where h_j is negative, |h_j| ≤
    |f_i|. Boxes prune by the same operations, which round monotonically, or with a margin, so that they lose nothing.
    """
    waiting = waiting_room()
    guess, total, rest, magnitude = 0, 0.0, 0.0, 0.0
    count = 0
    for i in range(a.row.size):
        if row_of(a, i) < 0:
            continue
        if partner[i] >= 0:
            guess = partner[i]
        best, _, j = best_two(b, guess, a, i, -to_diagonal(a, i), lifted, waiting)
        if j >= 0:
            guess = j
        set_weight(a, i, -best)
        new = total - best
        rest += (total - new) - best if abs(total) >= abs(best) else (-best - new) + total
        total = new
        magnitude += abs(best)
        count += 1
    refresh_all(a)
    rounding = (5 + a.places.shape[2]) * ULP * (magnitude + count * max(largest_weight(b), 0.0))
    return total, rest, rounding + (count * ULP) ** 2 * magnitude


@jit
def release(a, b, partner, owner, rate):
    """Part the pairs that feasible potentials do not support to within ε."""
    for i in range(len(partner)):
        j = partner[i]
        if j < 0:
            continue
        slack = squared_distance(a, i, b, j) - weight_of(a, i) - weight_of(b, j)
        if slack > rate * 0.5 * (v_of(a, i) + v_of(b, j)):
            partner[i], owner[j] = -1, -1


@jit
def forward(a, b, partner, owner, rate, budget):
    """Points of a bid for points of b, until none that is alone gains more than ε. Returns the number of bids.

    On entry the potentials are feasible and so say who has something to gain. On return f makes all pairs tight.
    """
    waiting = waiting_room()
    size = len(partner)
    queue = np.empty(size, np.int64)
    length = 0
    for i in range(size):
        if row_of(a, i) >= 0 and partner[i] < 0 and weight_of(a, i) < to_diagonal(a, i) - rate * v_of(a, i):
            queue[length] = i
            length += 1
    newcomers = length
    last = np.zeros(size, np.int64)
    head, guess, bids = 0, 0, 0
    while length > 0 and bids < budget:
        i = queue[head]
        head = head + 1 if head + 1 < size else 0
        length -= 1
        if newcomers > 0:  # neighbours follow each other: start where the one before found its best
            newcomers -= 1
        else:
            guess = last[i]
        epsilon = rate * v_of(a, i)
        best, second, j = best_two(b, guess, a, i, epsilon - to_diagonal(a, i), None, waiting)
        if j < 0:
            continue
        last[i] = guess = j
        set_weight(b, j, _below(weight_of(b, j), weight_of(b, j) - (best - second + epsilon)))
        refresh(b, j, TOP)
        bids += 1
        loser = owner[j]
        partner[i], owner[j] = j, i
        if loser >= 0:
            partner[loser] = -1
            tail = head + length
            queue[tail if tail < size else tail - size] = loser
            length += 1
    for i in range(size):
        if row_of(a, i) >= 0:
            j = partner[i]
            set_weight(a, i, to_diagonal(a, i) if j < 0 else squared_distance(a, i, b, j) - weight_of(b, j))
    refresh_all(a)
    return bids


@jit
def reverse(a, b, partner, owner, rate, budget, lifted):
    """Points of b that are alone at a price above 0 bid for points of a, or give it up. Returns the number of bids.

    Without it the bound stays loose: the gap holds the price of every point alone.
    """
    waiting = waiting_room()
    stack = np.empty(len(owner), np.int64)
    height = 0
    for j in range(len(owner)):
        if row_of(b, j) >= 0 and owner[j] < 0 and weight_of(b, j) < to_diagonal(b, j):
            stack[height] = j
            height += 1
    guess, bids = 0, 0
    while height > 0 and bids < budget:
        height -= 1
        j = stack[height]
        epsilon = rate * v_of(b, j)
        best, second, i = best_two(a, guess, b, j, epsilon - to_diagonal(b, j), lifted, waiting)
        bids += 1
        if i < 0:
            set_weight(b, j, to_diagonal(b, j))
            continue
        guess = i
        set_weight(b, j, min(epsilon - second, to_diagonal(b, j)))
        set_weight(a, i, _below(weight_of(a, i), squared_distance(a, i, b, j) - weight_of(b, j)))
        refresh(a, i, TOP)
        if lifted is not None:
            refresh(a, i, LIFT)
        loser = partner[i]
        partner[i], owner[j] = j, i
        if loser >= 0:
            owner[loser] = -1
            if weight_of(b, loser) < to_diagonal(b, loser):
                stack[height] = loser
                height += 1
    return bids


@inline
def _below(old, new):
    """The new weight, or the next float below the old one where the step is lost in rounding: every bid counts."""
    return new if new < old else np.nextafter(old, -np.inf)
