"""Processes of a stage that nothing explains: not run by supervisord, not the host, and no operation goes on."""

from agentctl import group
from agentctl.drill.group.belonging import of_root
from agentctl.drill.group.stage import Stage
from agentctl.processes import Process, command_line, wait_until
from agentctl.view import read_endpoints

_WORDS = 160


def left_over(stage: Stage, patience: float) -> list[str]:
    """Those that are there for `patience` seconds, a line each. Children of an hour's look end meanwhile.

    Raises SupervisordError.
    """
    found = _unexplained(stage)
    wait_until(lambda: not any(one.alive() for one in found), patience)
    return [f"{one.pid}: {' '.join(command_line(one.pid))[:_WORDS].strip()}" for one in sorted(found) if one.alive()]


def _unexplained(stage: Stage) -> set[Process]:
    run = {one.pid for one in stage.supervisord.programs() if one.pid} | {stage.supervisord.pid()}
    if endpoints := read_endpoints(stage.deployment):
        run.add(endpoints.pid)
    return {one for one in group.running(stage.deployment) | of_root(stage.root) if one.pid not in run}
