"""How threads share the tiles of a run, in machine code: none waits for the interpreter's lock, or until another is awake.

The caller *leads*: it opens a *gate*, takes tiles from the front until none are left, closes the gate, and waits until no
helper is inside.  A helper *follows*: while the gate is open it enters and takes tiles from the back.  Then it stays awake
for a while, as the next run often begins within microseconds, and waking a thread takes as long as a small run.

All that they share is a block of words in memory.  These functions are compiled like loops; they take bare addresses.
"""

from __future__ import annotations

__all__ = ["add", "call", "follow", "lead", "look", "pause", "put"]

# Words of the block: what many look at all the time, what all change, and what stays as it is during a run lie two lines of
# the cache apart, as some processors fetch two at once.
#: 1 while there may be tiles to take, and 2 more for every helper inside.
GATE = 0
TURN = 1  #: number of the run
STOP = 2  #: not 0: helpers go home
MOST = 3  #: helpers that may enter
GIVE_WAY = 4  #: address of the system's function that lets others run, or 0; written once, as it is called at any time
#: Parts that were taken, from anywhere; from the front; from the back.
TAKEN, FRONT, BACK = 16, 17, 18
#: The loop's address, bytes of scratch that it needs, tiles, tiles of a part, parts, where its arguments lie.
RUN, ROOM, TILES, GRAIN, PARTS, PACKED = range(32, 38)
#: From here on each helper has room: whether it sleeps; bytes of scratch that it has, and that it lacked; its last run.
HELPERS, LINE = 48, 16
ASLEEP, HAS, WANTS, SEEN = range(4)

#: Looks between two requests to let others run: some microseconds.
FEW = 256


def lead(packed, own, block, _):
    """The caller's part of a run that has been written into the block."""
    put(block, PACKED, packed)
    add(block, GATE, 1)
    _take(block, own, FRONT)
    add(block, GATE, -1)
    looks = 0
    while look(block, GATE) != 0:
        looks += 1
        _wait(block, looks)


def follow(block, own, helper, patience):
    """A helper's life between two sleeps: until so many looks have found nothing to do, or its scratch is too small."""
    mine = HELPERS + LINE * helper
    left = patience
    while left > 0 and look(block, STOP) == 0:
        if look(block, GATE) & 1 == 0 or look(block, TURN) == look(block, mine + SEEN) or helper >= look(block, MOST):
            left -= 1
            _wait(block, left)
            continue
        if add(block, GATE, 2) & 1 == 1:  # still open: from here on nothing but the counters changes
            if look(block, ROOM) > look(block, mine + HAS):
                put(block, mine + WANTS, look(block, ROOM))
                add(block, GATE, -2)
                return
            _take(block, own, BACK)
            put(block, mine + SEEN, look(block, TURN))
            left = patience
        add(block, GATE, -2)
    put(block, mine + ASLEEP, 1)


def _take(block, own, end):
    """Run parts from one end, until all are taken.  Front and back never meet: no more parts are taken than there are."""
    parts, grain, tiles = look(block, PARTS), look(block, GRAIN), look(block, TILES)
    while add(block, TAKEN, 1) < parts:
        part = add(block, end, 1)
        lo = grain * (part if end == FRONT else parts - 1 - part)
        call(look(block, RUN), look(block, PACKED), own, lo, min(lo + grain, tiles))


def _wait(block, looks):
    """Between two looks.  Now and then the system is asked to let others run: the one waited for may have no CPU."""
    if looks % FEW == 0 and look(block, GIVE_WAY) != 0:
        call(look(block, GIVE_WAY), 0, 0, 0, 0)
    else:
        pause()


# -- words of the compiler (:mod:`minisnn.kernels.compiler`)


def look(block, at):
    """The word at `at`, as it is now in memory."""


def put(block, at, value):
    """Make it that value."""


def add(block, at, n):
    """Add `n` to the word at `at`, in one step that nothing comes between; what it was before."""


def pause():
    """Let the processor know that this thread waits."""


def call(function, packed, own, lo, hi):
    """Call machine code by its address."""
