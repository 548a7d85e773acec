"""Fetching the goal state from both channels (protocol: goal state fetch algorithm). Blocking parts, one step each."""

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from guestagent.certificates import fetch_certificates
from ipc.statefile import write_atomically
from wire.deadline import Deadline
from wire.errors import DocumentError, HostError, NoRoleInstance, WireError
from wire.extensions import ExtensionsGoalState
from wire.extensionsconfig import empty_extensions, parse_extensions_config
from wire.goalstate import GoalState
from wire.hostingenvironment import check_shared_config
from wire.hostplugin import HostPlugin
from wire.http import HttpClient
from wire.profile import parse_on_hold
from wire.wireserver import WireServer

_ROLE_TRIES = 6
_ROLE_PAUSE = 0.5

logger = logging.getLogger("guestagent")


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """A goal state with everything it names."""

    goal_state: GoalState
    extensions: ExtensionsGoalState
    thumbprints: tuple[str, ...]
    certificate_problem: str = ""


def read_goal_state(wireserver: WireServer, known: str, wait: float, pause: Callable[[float], object]) -> GoalState:
    """The goal state, asked for again while it names no role instance. Raises HostError, DocumentError."""
    for _ in range(_ROLE_TRIES - 1):
        try:
            return wireserver.goal_state(known=known, wait=wait)
        except NoRoleInstance:
            pause(_ROLE_PAUSE)
    return wireserver.goal_state(known=known, wait=wait)


def read_parts(
    wireserver: WireServer, goal_state: GoalState, client: HttpClient, plugin: HostPlugin, lib: Path
) -> Parts:
    """Everything a new incarnation names. Raises HostError, DocumentError; certificates that fail only are told."""
    if goal_state.extensions_url:
        document = wireserver.document(goal_state.extensions_url)
        extensions = parse_extensions_config(document, goal_state.incarnation)
    else:
        extensions = empty_extensions(goal_state.incarnation)
    if extensions.artifacts_profile_url:
        extensions = msgspec.structs.replace(
            extensions, on_hold=_on_hold(extensions.artifacts_profile_url, client, plugin)
        )
    shared = check_shared_config(wireserver.document(goal_state.shared_config_url))
    # Other products read this one.
    write_atomically(lib / "SharedConfig.xml", shared, 0o600)
    environment = wireserver.document(goal_state.hosting_environment_url)
    write_atomically(lib / "HostingEnvironmentConfig.xml", environment, 0o600)
    thumbprints, problem = read_certificates(wireserver, goal_state, lib)
    return Parts(goal_state=goal_state, extensions=extensions, thumbprints=thumbprints, certificate_problem=problem)


def read_certificates(wireserver: WireServer, goal_state: GoalState, lib: Path) -> tuple[tuple[str, ...], str]:
    """Thumbprints on disk now, and what went wrong: extensions without secrets do not need any."""
    if not goal_state.certificates_url:
        return (), ""
    try:
        return tuple(fetch_certificates(wireserver, goal_state.certificates_url, lib)), ""
    except (WireError, OSError) as error:
        logger.warning("certificates: %s", error)
        return (), str(error)


def lacks_certificates(extensions: ExtensionsGoalState, lib: Path) -> list[str]:
    """Thumbprints that settings name and that are not on disk."""
    named = {one.thumbprint for handler in extensions.handlers for one in handler.settings if one.thumbprint}
    return sorted(name for name in named if not name.isalnum() or not (lib / f"{name}.crt").exists())


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
