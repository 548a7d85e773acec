"""Attempts, with processes that are only said to run."""

import asyncio
import time
from typing import cast

import msgspec
import pytest

from ipc.places import Places
from rdagent.update.attempt import Attempts
from rdagent.update.chronicle import Chronicle
from rdagent.update.gate import Observation
from rdagent.update.install import Installer
from rdagent.update.memory import Memory
from rdagent.update.offers import Offer
from rdagent.update.shelf import Shelf
from rdagent.update.trials import Trials
from release.record import Chosen
from release.signing import Trust
from tests.rdagent.update.situations import chosen, offer


class Look(Trials):
    """Sees 0.2.0 run; meanwhile the record may come to say so, too."""

    def __init__(self, shelf: Shelf, *, swapped: bool) -> None:
        self._shelf, self._swapped = shelf, swapped

    async def look(self, component: str) -> Observation:
        if self._swapped:
            put(self._shelf, component, "0.2.0")
        return Observation(now=time.monotonic(), answered=True, version="0.2.0")


def put(shelf: Shelf, component: str, version: str) -> None:
    shelf.change(component, lambda before: msgspec.structs.replace(before, current=chosen(version)))


@pytest.mark.parametrize("swapped", [True, False])
def test_only_what_was_not_in_force_all_the_while(places: Places, *, swapped: bool) -> None:
    shelf, memory = Shelf(places, lambda _: Trust(())), Memory(places)
    put(shelf, "telemetry", "0.1.0")
    attempts = Attempts(
        places,
        shelf,
        memory,
        cast("Chronicle", None),
        cast("Installer", None),
        Look(shelf, swapped=swapped),
        running=dict,
        changed=lambda _: None,
        be_reborn=lambda: None,
    )
    asyncio.run(attempts.correct("telemetry"))
    assert memory.now.corrected == ({} if swapped else {"telemetry": shelf.record("telemetry").serial})


class Shelved(Installer):
    """All is on the disk already."""

    def __init__(self) -> None:
        pass

    async def install(self, offer: Offer) -> Chosen:
        return chosen(offer.version)


def test_a_version_that_is_tried_once_more_has_a_story_of_its_own(places: Places) -> None:
    """rdagent's own ends are told by whoever comes up next, unless they are told already."""
    shelf, memory = Shelf(places, lambda _: Trust(())), Memory(places)
    memory.change(known_bad={"rdagent": [chosen("0.1.0").key, chosen("0.2.0").key], "telemetry": [chosen("0.2.0").key]})
    look, reborn = Look(shelf, swapped=False), list[bool]()
    attempts = Attempts(
        places,
        shelf,
        memory,
        cast("Chronicle", Quiet()),
        Shelved(),
        look,
        running=dict,
        changed=lambda _: None,
        be_reborn=lambda: reborn.append(True),
    )
    asyncio.run(attempts.make(offer("0.2.0", "host", component="rdagent")))
    assert reborn == [True]
    assert memory.now.known_bad == {"rdagent": [chosen("0.1.0").key], "telemetry": [chosen("0.2.0").key]}


class Quiet:
    """What is told is not looked at."""

    def note(self, *_: object, **__: object) -> None:
        pass
