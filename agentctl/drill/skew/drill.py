"""`agentctl drill skew`: the contract suite over combinations of releases of the four, swapped one after another.

Every combination of this release (N) and the one before (N-1); what a later one may say (N+1), one component at a time,
beside each of them; and a component of another major version of the protocol, which has to be refused cleanly.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path

import msgspec

from agentctl import __version__
from agentctl.drill import newer
from agentctl.drill.findings import Findings
from agentctl.drill.group.stage import Stage
from agentctl.drill.progress import Steps
from agentctl.drill.report import Grid
from agentctl.drill.skew import foreign
from agentctl.drill.skew.walk import Cell, Walk
from agentctl.drill.variants import (
    Change,
    Variant,
    appended,
    begun_with,
    changed,
    checkout,
    released,
    replaced,
    variant,
)
from ipc.contract import PROTOCOL
from ipc.places import COMPONENTS

CONFIGURATION = "[rdagent]\nheartbeat_period = 1.0\nlook_period = 1.0\n\n[guestagent]\ngoal_state_period = 1.0\n"
"""So that a wait for the next look or heartbeat is short."""

_FOR_ITS_LAUNCHER = (
    'import os\nif "AZVMAGENT_IMPORTS" in os.environ:\n    os.environ["PYTHONPATH"] = os.environ["AZVMAGENT_IMPORTS"]\n'
)


CELLS = 25
"""How many combinations there are in all."""


class Releases(msgspec.Struct, frozen=True, kw_only=True):
    """What is swapped."""

    older: Variant
    """N-1: the last one released."""
    own: Variant
    """N: this checkout."""
    newer: Variant
    """N+1: N with everything a later contract may add."""
    newer_keys: Variant
    """The same without new words: in 0.1.0 enumerations are closed, and a later release has to respect that."""
    foreign: Variant
    """N with another major version of the protocol."""


def build(stage: Stage) -> Releases:
    """All releases as packages under the stage's root. Raises CommandError."""
    sources, out = stage.root / "sources", stage.root / "packages"
    version, older = released(sources / "older")
    for_this_base(older)

    def made(name: str, number: str, folder: str, changes: Mapping[str, Change]) -> Variant:
        source = checkout(sources / folder, changes)
        return variant(name, source, number, out, stage.key)

    major, minor, *_ = (int(part) for part in __version__.split("."))
    return Releases(
        older=variant(version, older, version, out, stage.key),
        own=made(__version__, __version__, "own", {}),
        newer=made("N+1", f"{major}.{minor + 1}.0", "newer", later(words=True)),
        newer_keys=made("N+1 keys", f"{major}.{minor + 1}.1", "newer-keys", later(words=False)),
        foreign=made("foreign", "0.0.1", "foreign", {"ipc/contract/__init__.py": _speaks(PROTOCOL[0] - 1, 0)}),
    )


def combinations(zero: Variant, one: Variant) -> list[Cell]:
    """All sixteen, each one swap away from the one before (Gray code), from all `zero` on."""
    return [
        Cell(
            kind="combination",
            chosen={name: one if code >> place & 1 else zero for place, name in enumerate(COMPONENTS)},
        )
        for code in (number ^ number >> 1 for number in range(1 << len(COMPONENTS)))
    ]


def beside(single: Variant, others: Variant, kind: str) -> list[Cell]:
    """Each component in turn as `single` while the rest are `others`."""
    return [
        Cell(kind=kind, chosen={name: single if name == odd else others for name in COMPONENTS}) for odd in COMPONENTS
    ]


def plan(releases: Releases) -> list[Cell]:
    """Everything, in an order with few swaps."""
    return [
        *combinations(releases.own, releases.older),
        *beside(releases.newer, releases.own, "newer"),
        *beside(releases.newer_keys, releases.older, "newer"),
        Cell(kind="foreign", chosen=dict.fromkeys(COMPONENTS, releases.own) | {foreign.ODD: releases.foreign}),
    ]


def grids(releases: Releases, cells: list[Cell]) -> list[Grid]:
    """The heat maps."""
    names = {frozenset((name, one.name) for name, one in cell.chosen.items()): cell.name for cell in cells}
    own, older = releases.own, releases.older
    pairs = list(itertools.product((older, own), repeat=2))

    def cell_of(chosen: Mapping[str, Variant]) -> str:
        return names[frozenset((name, one.name) for name, one in chosen.items())]

    def labels(first: str, second: str) -> list[str]:
        return [f"{first} {one.name}\n{second} {other.name}" for one, other in pairs]

    sixteen = [[cell_of(dict(zip(COMPONENTS, (*row, *column), strict=True))) for column in pairs] for row in pairs]
    others = [(releases.newer, own), (releases.newer_keys, older)]
    odd = [[cell_of(dict.fromkeys(COMPONENTS, own) | {foreign.ODD: releases.foreign})]]
    return [
        Grid(
            title=f"{older.name} and {own.name}",
            corner="",
            rows=labels(*COMPONENTS[:2]),
            columns=labels(*COMPONENTS[2:]),
            cells=sixteen,
        ),
        Grid(
            title="a later release (N+1)",
            corner="one is N+1",
            rows=list(COMPONENTS),
            columns=[
                f"others {rest.name}" + ("" if single is releases.newer else ", no new words")
                for single, rest in others
            ],
            cells=[
                [cell_of(dict.fromkeys(COMPONENTS, rest) | {one: single}) for single, rest in others]
                for one in COMPONENTS
            ],
        ),
        Grid(
            title="another major version of the protocol, refused cleanly",
            corner="",
            rows=["telemetry"],
            columns=[f"others {own.name}"],
            cells=odd,
        ),
    ]


def run(stage: Stage, releases: Releases, cells: list[Cell], steps: Steps, findings: Findings) -> None:
    """The whole drill. Raises CommandError if it cannot be done at all."""
    findings.grids = grids(releases, cells)
    findings.facts = {
        "N-1": f"{releases.older.name}, as released",
        "N": f"{releases.own.name}, protocol {PROTOCOL[0]}.{PROTOCOL[1]}",
        "N+1": f"N that says what protocol {PROTOCOL[0]}.{PROTOCOL[1] + 1} may say",
        "foreign": f"N that speaks protocol {PROTOCOL[0] - 1}.0",
    }
    Walk(stage, findings.cases, steps).through(cells)


def for_this_base(source: Path) -> Path:
    """0.1.0 as it has to be to run under this base install, which came after it; nothing it says or hears is changed.

    Its children import from where their parent does, as its own launch.py saw to by PYTHONPATH; and it passes over the
    table [update], which no machine had that it ran on.
    """
    launched = {f"{component}/__main__.py": begun_with(_FOR_ITS_LAUNCHER) for component in COMPONENTS}
    tables = replaced(r'\("host", \*COMPONENTS\)', '("host", "update", *COMPONENTS)')
    return changed(source, {**launched, "ipc/settings.py": tables})


def later(*, words: bool) -> dict[str, Change]:
    """What makes a copy of this checkout a later release, see newer.py."""
    text = Path(newer.__file__).read_text()
    return {
        "ipc/newer.py": lambda _: text,
        "ipc/component.py": appended(f"from ipc import newer\n\nnewer.begin(words={words})"),
        "ipc/contract/__init__.py": _speaks(PROTOCOL[0], PROTOCOL[1] + 1),
    }


def _speaks(major: int, minor: int) -> Change:
    return replaced(r"^PROTOCOL = .*$", f"PROTOCOL = ({major}, {minor})")
