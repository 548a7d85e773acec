"""Fetching the goal state and what it names (protocol: goal state fetch algorithm). Blocking parts, one step each."""

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from ipc.statefile import write_atomically
from wire.deadline import Deadline
from wire.errors import DocumentError, HostError, NoRoleInstance
from wire.extensions import ExtensionsGoalState
from wire.extensionsconfig import DOCUMENT, empty_extensions, parse_extensions_config
from wire.goalstate import GoalState
from wire.hostingenvironment import check_shared_config, parse_hosting_environment
from wire.hostplugin import HostPlugin
from wire.http import HttpClient
from wire.profile import parse_on_hold
from wire.wireserver import WireServer

_ROLE_TRIES = 6
_ROLE_PAUSE = 0.5

logger = logging.getLogger("guestagent")


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """A goal state with everything it names but the certificates."""

    goal_state: GoalState
    extensions: ExtensionsGoalState
    documents: dict[str, bytes] = {}
    """As they came, by file name."""


def read_goal_state(wireserver: WireServer, known: str, wait: float, pause: Callable[[float], object]) -> GoalState:
    """The goal state, asked for again while it names no role instance. Raises HostError, DocumentError."""
    for _ in range(_ROLE_TRIES - 1):
        try:
            return wireserver.goal_state(known=known, wait=wait)
        except NoRoleInstance:
            pause(_ROLE_PAUSE)
    return wireserver.goal_state(known=known, wait=wait)


def read_parts(wireserver: WireServer, goal_state: GoalState, client: HttpClient, plugin: HostPlugin) -> Parts:
    """Everything a new incarnation names. Raises HostError, DocumentError."""
    documents = {"GoalState.xml": goal_state.content}
    extensions = empty_extensions(goal_state.incarnation)
    if goal_state.extensions_url:
        document = documents["ExtensionsConfig.xml"] = wireserver.document(goal_state.extensions_url)
        try:
            extensions = parse_extensions_config(document, goal_state.incarnation)
        except DocumentError as error:
            error.content = document
            raise
    if extensions.artifacts_profile_url:
        on_hold = _on_hold(extensions.artifacts_profile_url, client, plugin)
        extensions = msgspec.structs.replace(extensions, on_hold=on_hold)
    documents["HostingEnvironmentConfig.xml"] = wireserver.document(goal_state.hosting_environment_url)
    parse_hosting_environment(documents["HostingEnvironmentConfig.xml"])
    documents["SharedConfig.xml"] = check_shared_config(wireserver.document(goal_state.shared_config_url))
    return Parts(
        goal_state=msgspec.structs.replace(goal_state, content=b""), extensions=extensions, documents=documents
    )


def write_for_others(lib: Path, documents: dict[str, bytes]) -> None:
    """The documents other products read in the library directory. Raises OSError."""
    contents = {name: documents[name] for name in ("HostingEnvironmentConfig.xml", "SharedConfig.xml")}
    # Old products want to see that there is one.
    contents["GoalState.1.xml"] = b"empty file\n"
    for name, content in contents.items():
        path = lib / name
        if not path.is_file() or path.read_bytes() != content:
            write_atomically(path, content, 0o600)


def unreadable_name(document: str) -> str:
    """The file name under which a document that cannot be read is kept."""
    return {DOCUMENT: f"{DOCUMENT}.xml", "vmSettings": "VmSettings.json"}.get(document, "document.txt")


def _on_hold(url: str, client: HttpClient, plugin: HostPlugin) -> bool:
    """Any problem means not on hold (protocol: onHold)."""

    def directly() -> bytes:
        return client.request("GET", url, deadline=Deadline.after(20)).body

    def through_the_host() -> bytes:
        return plugin.fetch(url, seconds=20)

    for fetch in (directly, through_the_host):
        try:
            return parse_on_hold(fetch())
        except (HostError, DocumentError) as error:
            logger.info("artifacts profile: %s", error)
    return False
