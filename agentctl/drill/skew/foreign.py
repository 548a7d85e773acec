"""A telemetry that speaks another major version of the protocol: refused with the reason, and nothing is lost by it."""

import asyncio

from agentctl.drill.group.contract import Alarm, Broken, Expected, suite
from ipc.contract.rdagent import GetTruth, Truth
from ipc.contract.telemetry import GetTimeline
from ipc.errors import Refused
from ipc.places import COMPONENTS, Places

ODD = "telemetry"
REASON = "speaks protocol"


async def refused(places: Places, expected: Expected, alarm: Alarm) -> None:
    """Asked, it is refused at once; rdagent says why; the others go on. Raises Broken."""
    others = [name for name in COMPONENTS if name != ODD]
    async with suite(places, expected, alarm) as found:
        await asyncio.gather(*map(found.meet, others))
        try:
            await found.ask(GetTimeline())
            raise Broken(f"{ODD} was understood")
        except Refused as refusal:
            if refusal.code != "unsupported" or REASON not in refusal.reason:
                raise Broken(f"{ODD} is refused without the reason: {refusal}") from refusal
        while problem := _what_is_wrong(await found.ask(GetTruth())):
            await found.pause(problem)
        await found.runs_once()


async def nothing_is_lost(places: Places, expected: Expected, alarm: Alarm) -> None:
    """With one that is understood in its place, what was recorded meanwhile arrives. Raises Broken."""
    async with suite(places, expected, alarm) as found:
        await asyncio.gather(*map(found.meet, COMPONENTS))
        await found.is_in_the_journal("guestagent")


def _what_is_wrong(truth: Truth) -> str:
    for one in truth.components:
        if one.name == ODD and (one.state != "degraded" or REASON not in one.why):
            return f"rdagent does not say why {ODD} cannot be understood, it calls it {one.state}: {one.why}"
        if one.name != ODD and one.state not in {"ok", "busy"}:
            return f"{one.name} is {one.state}: {one.why}"
    return "" if truth.host.ready else "the host was not told Ready"
