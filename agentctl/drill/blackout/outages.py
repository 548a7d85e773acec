"""Ways in which the repository and the host's manifests are away, or lie: faults of the local host, or its end."""

from typing import Literal

import msgspec

Kind = Literal["away", "package away", "one way left", "withdrawn", "host gone"]
"""What is left: nothing, the lists without the packages, one of two sources, all but the version wanted, not even the
host."""

Spoiled = tuple[str, str, float | None]
"""Endpoint, fault, value: as `azfabric fault add` takes them."""

EVERYWHERE = "artifacts"
_PACKAGES = ("repositorytargets", "agentpackage", "agentartifact")
_STATUS = (400, 401, 403, 404, 410, 429, 500, 502, 503, 302)


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """One way."""

    name: str
    what: str
    """In one sentence."""
    drill: str
    """Its number in the catalogue of drills (docs/drills.md)."""
    rounds: tuple[tuple[Spoiled, ...], ...]
    """Faults in force together, one group after the other; the last stays until the return."""
    kind: Kind = "away"
    everything: bool = False
    """Not only rdagent is killed meanwhile, but supervisord and all it runs."""
    patience: float = 30.0
    """Seconds until the updater has to notice."""


def _everywhere(fault: str, value: float | None = None) -> tuple[tuple[Spoiled, ...], ...]:
    return (((EVERYWHERE, fault, value),),)


OUTAGES: tuple[Outage, ...] = (
    Outage(
        name="host-gone",
        what="the host ends: connections are refused, nothing is told and nothing asked",
        drill="1",
        rounds=(),
        kind="host gone",
        everything=True,
    ),
    Outage(
        name="silent",
        what="accepts and does not answer",
        drill="3",
        rounds=_everywhere("slow", 900),
        patience=240.0,
    ),
    Outage(name="drip", what="sends a byte a second", drill="4", rounds=_everywhere("drip", 1), patience=240.0),
    Outage(
        name="status",
        what="answers with each of the HTTP statuses 302 to 503 in turn",
        drill="5",
        rounds=tuple(((EVERYWHERE, "status", float(status)),) for status in _STATUS),
        everything=True,
    ),
    Outage(
        name="package-away",
        what="has the lists, and 404 for the packages",
        drill="6",
        rounds=(tuple((endpoint, "status", 404.0) for endpoint in _PACKAGES),),
        kind="package away",
    ),
    Outage(name="captive-portal", what="answers 200 with a HTML page", drill="8", rounds=_everywhere("html-page")),
    Outage(name="reset", what="closes each connection without a word", drill="9", rounds=_everywhere("reset")),
    Outage(name="truncated", what="sends half of what it announces", drill="10", rounds=_everywhere("truncate")),
    Outage(name="junk", what="sends bytes that mean nothing", drill="11", rounds=_everywhere("wrong-bytes")),
    Outage(
        name="endless",
        what="sends an answer that never ends",
        drill="12",
        rounds=_everywhere("endless"),
        patience=240.0,
    ),
    Outage(
        name="repository-away",
        what="the repository is away, the host's manifests are there",
        drill="13",
        rounds=((("repository", "status", 503.0),),),
        kind="one way left",
    ),
    Outage(
        name="manifests-away",
        what="the host's manifests and packages are away, the repository is there",
        drill="13",
        rounds=((("agent-artifacts", "status", 503.0),),),
        kind="one way left",
    ),
    Outage(
        name="withdrawn",
        what="the version is taken away between the host's word and the download",
        drill="14",
        rounds=(tuple((endpoint, "status", 404.0) for endpoint in _PACKAGES),),
        kind="withdrawn",
    ),
    Outage(
        name="expired",
        what="the repository's time is over, and the host's manifests are away",
        drill="20",
        rounds=((("repositorymetadata", "expired-metadata", None), ("agent-artifacts", "status", 403.0)),),
    ),
    Outage(
        name="replayed",
        what="old lists are said again, and the packages are away",
        drill="19",
        rounds=(
            (
                ("repositorymetadata", "replayed", None),
                ("agentmanifest", "replayed", None),
                *((endpoint, "status", 403.0) for endpoint in _PACKAGES),
            ),
        ),
        kind="package away",
    ),
)
