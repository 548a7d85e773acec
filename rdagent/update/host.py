"""What the host asks for: agent families of its goal state, and their manifests. Blocking: call it in a thread.

Read here and not asked of guestagent: who can replace the others must not depend on them. Both channels may say it;
what counts is the document in force (protocol: choosing the newer goal state).
"""

import msgspec

from ipc.hostaddress import HostAddress
from wire.deadline import Deadline
from wire.download import Unchanged
from wire.errors import WireError
from wire.extensions import AgentFamily, ExtensionsGoalState, newest
from wire.extensionsconfig import parse_extensions_config
from wire.goalstate import GoalState
from wire.hostplugin import HostPlugin, Unsupported
from wire.http import HttpClient
from wire.manifest import AGENT_SIZE_LIMIT, Package, parse_agent_manifest
from wire.vmsettings import VmSettings
from wire.wireserver import WireServer

_MANIFEST_SECONDS = 20.0

FastTrack = VmSettings | Unchanged | Unsupported | None
"""What HostGAPlugin answered; None: nothing that could be read."""


class Instructions(msgspec.Struct, frozen=True, kw_only=True):
    """Instructions, never trust."""

    in_force: ExtensionsGoalState | None = None
    """The document they are from, without its handlers."""
    families: tuple[AgentFamily, ...] = ()
    manifests: dict[str, tuple[Package, ...]] = {}
    """By family, without those that could not be had."""
    away: dict[str, str] = {}
    """By family: why its manifest could not be had; under "" why HostGAPlugin says nothing."""


def read_instructions(
    client: HttpClient, host: HostAddress, components: tuple[str, ...], known: ExtensionsGoalState | None
) -> Instructions:
    """The families named like our components; `known` was in force so far.

    Raises WireError when the goal state cannot be had. Nor does a fresh process obey the WireServer alone while
    HostGAPlugin cannot be read: there may be a newer document.
    """
    server = WireServer(client, host.wireserver)
    goal_state = server.goal_state()
    fabric = None
    if goal_state.extensions_url:
        fabric = parse_extensions_config(server.document(goal_state.extensions_url), goal_state.incarnation)
    fast, problem = _fast_track(client, host, goal_state, known)
    chosen = choose(known, fabric, fast)
    if chosen is None:
        return Instructions()
    families = () if chosen.withheld else tuple(one for one in chosen.families if one.name in components)
    manifests: dict[str, tuple[Package, ...]] = {}
    away = {"": problem} if problem else {}
    for family in families:
        packages, problem = _manifest(client, family)
        if packages is not None:
            manifests.setdefault(family.name, packages)
        elif problem:
            away[family.name] = problem
    kept = msgspec.structs.replace(chosen, handlers=())
    away = {name: why for name, why in away.items() if name not in manifests}  # of two of one name, one is enough
    return Instructions(in_force=kept, families=families, manifests=manifests, away=away)


def choose(
    known: ExtensionsGoalState | None, fabric: ExtensionsGoalState | None, fast: FastTrack
) -> ExtensionsGoalState | None:
    """The document in force, as guestagent chooses it. Pure."""
    if fast == "unsupported" and known is not None and known.source == "FastTrack" and fabric is not None:
        # Support stopped: the WireServer's, whatever its age; what it said before FastTrack spoke is not done again.
        outdated = fabric.created_on_ticks < known.created_on_ticks
        return msgspec.structs.replace(fabric, withheld="older than what FastTrack delivered") if outdated else fabric
    of_fast = fast.extensions if isinstance(fast, VmSettings) and fast.source == "FastTrack" else None
    chosen = newest(known, fabric, of_fast)
    if chosen is None or known is None or not known.withheld:
        return chosen
    again = (chosen.id, chosen.created_on_ticks) == (known.id, known.created_on_ticks)
    return msgspec.structs.replace(chosen, withheld=known.withheld) if again else chosen


def _fast_track(
    client: HttpClient, host: HostAddress, goal_state: GoalState, known: ExtensionsGoalState | None
) -> tuple[FastTrack, str]:
    """Its answer, and why there is none. Raises WireError while nothing is known to be in force."""
    plugin = HostPlugin(client, host.hostgaplugin, goal_state.container_id, goal_state.config_name)
    try:
        return plugin.vm_settings(), ""
    except WireError as error:
        if known is None:
            raise
        return None, str(error)


def _manifest(client: HttpClient, family: AgentFamily) -> tuple[tuple[Package, ...] | None, str]:
    """The first that can be had and read, else why the last could not."""
    problem = ""
    for uri in family.uris:
        if not uri.lower().startswith(("http://", "https://")):
            problem = f"family {family.name}: {uri[:100]} is no http address"
            continue
        try:
            answer = client.request(
                "GET", uri, headers={}, deadline=Deadline.after(_MANIFEST_SECONDS), limit=AGENT_SIZE_LIMIT
            )
            return parse_agent_manifest(answer.body), ""
        except WireError as error:
            problem = f"family {family.name}: {error}"
    return None, problem
