"""Solutions of lesson 14."""


def ring_allreduce(parts):
    """parts: P lists of P numbers, one list a process. All get the sums, piece by piece."""
    p = len(parts)
    have = [list(part) for part in parts]
    for turn in range(p - 1):  # process r sends piece r - turn, which is then added on the right
        sent = [(r, (r - turn) % p, have[r][(r - turn) % p]) for r in range(p)]
        for r, piece, value in sent:
            have[(r + 1) % p][piece] += value
    for turn in range(p - 1):  # process r has piece r + 1 complete, and passes complete ones on
        sent = [(r, (r + 1 - turn) % p, have[r][(r + 1 - turn) % p]) for r in range(p)]
        for r, piece, value in sent:
            have[(r + 1) % p][piece] = value
    return have


def bytes_sent(size, processes):
    """2(P − 1) pieces of size/P each: below 2·size, however many there are."""
    return 2 * (processes - 1) * size / processes
