"""Each machine its own time: a release must not be tried by a whole fleet in the same minute."""

import hashlib


def jitter(machine: str, component: str, version: str, limit: float) -> float:
    """Seconds in [0, limit] that this machine waits with this version; always the same, evenly spread over many.

    `machine`: anything that tells machines apart. 0 for a limit that is none.
    """
    if not 0 < limit < float("inf"):
        return 0.0
    data = "\0".join((machine, component, version)).encode(errors="surrogateescape")
    share = int.from_bytes(hashlib.sha256(data).digest()[:6], "big") / (1 << 48)
    return share * limit
