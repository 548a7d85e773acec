"""Figures of ours and its peers beside each other, and ours as a multiple of each peer's."""

Figures = dict[str, float]


def show(title: str, ours: Figures, peers: dict[str, Figures]) -> None:
    """A peer that could not be measured has no figures."""
    head = "".join(f"{name:>16}{'ratio':>8}" for name in peers)
    print(f"\n{title:22}{'ours':>12}{head}")
    for name, value in ours.items():
        beside = "".join(_beside(value, peer.get(name)) for peer in peers.values())
        print(f"{name:22}{value:12.2f}{beside}")


def _beside(value: float, peer: float | None) -> str:
    if peer is None:
        return f"{'-':>16}{'-':>8}"
    return f"{peer:16.2f}" + (f"{value / peer:8.2f}" if peer else f"{'-':>8}")
