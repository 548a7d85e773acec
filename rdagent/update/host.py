"""What the host asks for: agent families of its goal state, and their manifests. Blocking: call it in a thread.

Read here and not asked of guestagent: who can replace the others must not depend on them.
"""

import msgspec

from ipc.hostaddress import HostAddress
from wire.deadline import Deadline
from wire.errors import WireError
from wire.extensions import AgentFamily
from wire.extensionsconfig import parse_extensions_config
from wire.http import HttpClient
from wire.manifest import AGENT_SIZE_LIMIT, Package, parse_agent_manifest
from wire.wireserver import WireServer

_MANIFEST_SECONDS = 20.0


class Instructions(msgspec.Struct, frozen=True, kw_only=True):
    """Instructions, never trust."""

    incarnation: str = ""
    families: tuple[AgentFamily, ...] = ()
    manifests: dict[str, tuple[Package, ...]] = {}
    """By family, without those that could not be had."""
    problems: tuple[str, ...] = ()


def read_instructions(client: HttpClient, host: HostAddress, components: tuple[str, ...]) -> Instructions:
    """The families named like our components. Raises WireError when the goal state cannot be had."""
    server = WireServer(client, host.wireserver)
    goal_state = server.goal_state()
    if not goal_state.extensions_url:
        return Instructions(incarnation=goal_state.incarnation)
    config = parse_extensions_config(server.document(goal_state.extensions_url), goal_state.incarnation)
    families = tuple(one for one in config.families if one.name in components)
    manifests: dict[str, tuple[Package, ...]] = {}
    problems = []
    for family in families:
        packages, problem = _manifest(client, family)
        if packages is not None:
            manifests.setdefault(family.name, packages)
        elif problem:
            problems.append(problem)
    return Instructions(
        incarnation=goal_state.incarnation, families=families, manifests=manifests, problems=tuple(problems)
    )


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
