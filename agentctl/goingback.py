"""Giving up the version in force for the one before: by rdagent, or by the record where that does not answer."""

import click

from agentctl import records
from agentctl.asking import ask
from agentctl.deployment import Deployment
from agentctl.errors import CommandError, NothingThere
from agentctl.following import described, until_other, until_seen
from agentctl.restart import restart
from ipc.contract.every import Description
from ipc.contract.rdagent import RollBack

_ACT_WITHIN = 45.0
"""Seconds. Going back stops a process, and one that does not hear is killed after a while."""
_BACK_SECONDS = 60.0
_SEEN_SECONDS = 5.0


def gone_back(deployment: Deployment, component: str, given_up: str, before: Description | None, reason: str) -> str:
    """The version that runs then; empty if nobody is there to start it. Raises CommandError."""
    if described(deployment, "rdagent") is None:
        return _without_rdagent(deployment, component, given_up, reason)
    try:
        ask(deployment, RollBack(component=component, version=given_up, reason=reason), within=_ACT_WITHIN)
    except NothingThere:
        # It may have ended after the record was changed; its next life starts what that says.
        if records.to_give_up(deployment, component) == given_up:
            raise
    back = until_other(deployment, component, before, _BACK_SECONDS)
    if back is None:
        raise CommandError(
            f"the record was changed, and {component} does not answer within {_BACK_SECONDS:g} s. "
            f"See: {deployment.command('agentctl status')}"
        )
    until_seen(deployment, component, back.version, _SEEN_SECONDS)
    return back.version


def _without_rdagent(deployment: Deployment, component: str, given_up: str, reason: str) -> str:
    """The version that runs then; empty if nobody is there to start it. Raises CommandError."""
    records.step_back(deployment, component, given_up, reason)
    click.echo(f"rdagent does not answer; the record was changed: {component} {given_up} is given up.", err=True)
    try:
        return restart(deployment, component).version
    except NothingThere:
        return ""
