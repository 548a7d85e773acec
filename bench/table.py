"""Figures of two sides beside each other, and ours as a multiple of the other's."""

Figures = dict[str, float]


def show(title: str, sides: dict[str, Figures]) -> None:
    """The first side is ours; a side that was not measured is empty."""
    (our_name, ours), (their_name, theirs) = sides.items()
    print(f"{title:22}{our_name:>12}{their_name:>12}{'ratio':>8}")
    for name, value in ours.items():
        peer = theirs.get(name)
        beside = f"{peer:12.2f}" if peer is not None else f"{'-':>12}"
        ratio = f"{value / peer:8.2f}" if peer else ""
        print(f"{name:22}{value:12.2f}{beside}{ratio}")
