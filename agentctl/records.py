"""The records on disk, for when rdagent does not answer: they say what runs next, and launch.py goes by them alone."""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from agentctl.deployment import Deployment, supervisord_configuration
from agentctl.errors import CommandError
from ipc.contract.rdagent import BadVersion, TrialView, UpdateView
from ipc.places import COMPONENTS
from release import record as records
from release.environment import fingerprint
from release.errors import ReleaseError
from release.floor import check_step_back
from release.manifest import is_version, same_version, version_key
from release.record import Record
from release.tree import check_layer, check_version
from release.unpack import component_folder


def views(deployment: Deployment) -> list[UpdateView]:
    """What is so by the records. Nobody says here what runs, what is wanted, or what is pinned or held."""
    return [_view(deployment, name) for name in COMPONENTS]


def unblock(deployment: Deployment, component: str, version: str) -> None:
    """Take it (empty: all) off the bad list. Raises CommandError."""

    status = deployment.command("agentctl update status")

    def free(record: Record) -> Record:
        left = {
            key: bad for key, bad in record.bad.items() if version and not same_version(key.partition("+")[0], version)
        }
        if left == record.bad:
            raise CommandError(f"{f'{component} {version}'.strip()} is not on the bad list: {status}")
        return msgspec.structs.replace(record, bad=left)

    _change(deployment, component, free)


def to_give_up(deployment: Deployment, component: str) -> str:
    """The version that a step back leaves: the one on trial, else the one in force; empty: the base install."""
    record = records.read(component_folder(deployment.places.installed, component)) or Record(component=component)
    given_up = record.trial.target if record.trial else record.current
    return given_up.version if given_up else ""


def step_back(deployment: Deployment, component: str, version: str, reason: str) -> None:
    """Give up `version`; the one before is in force at the next start. Raises CommandError, also where that is below
    the floor of the current one, and where `version` was given up already.

    rdagent fills in later where and until when it is bad.
    """

    def back(record: Record) -> Record:
        if record.trial and record.trial.target.version == version:
            return records.reject(record, reason)
        check_step_back(deployment.places.installed, supervisord_configuration().parent, record, version)
        return records.step_back(record, reason)

    _change(deployment, component, back)


def why_another_runs(deployment: Deployment, component: str, version: str) -> str:
    """Why `version` runs and not the one in force by the record; empty if that one runs."""
    root, folder = deployment.places.installed, component_folder(deployment.places.installed, component)
    record = records.read(folder)
    if record is None or (current := record.current) is None or same_version(current.version, version):
        return ""
    try:
        for layer in check_version(folder / "versions" / current.version, current.digest).layers:
            check_layer(root / "deps" / layer.sha256, layer)
    except (OSError, ReleaseError) as error:
        return f"{current.version} is in force and cannot be started, it is damaged on the disk ({error})"
    return f"{current.version} is in force and was not started; its log lies under {deployment.places.log}"


def _change(deployment: Deployment, component: str, change: Callable[[Record], Record]) -> None:
    folder = component_folder(deployment.places.installed, component)
    if not folder.is_dir():
        raise CommandError(f"{component} runs from the base install: no other version was ever put beside it")
    try:
        with records.locked(folder):
            record = records.read(folder)
            if record is None:
                raise CommandError(f"{folder} has no whole record. rdagent makes a new one when it starts")
            records.show_current(folder, records.write(folder, change(record)))
    except ReleaseError as error:
        raise CommandError(str(error)) from error


def _view(deployment: Deployment, component: str) -> UpdateView:
    folder = component_folder(deployment.places.installed, component)
    record = records.read(folder) or Record(component=component)
    record = records.forgive(record, now=time.time(), environment=fingerprint())
    trial = record.trial
    return UpdateView(
        component=component,
        current=record.current.version if record.current else "",
        previous=record.previous.version if record.previous else "",
        staged=_versions(folder / "versions"),
        trial=TrialView(version=trial.target.version, digest=trial.target.digest, tries_left=trial.tries)
        if trial
        else None,
        bad=[
            BadVersion(
                version=key.partition("+")[0], digest=key.partition("+")[2], reason=bad.reason, expires=bad.expires
            )
            for key, bad in record.bad.items()
        ],
        state="on trial" if trial else "settled",
    )


def _versions(folder: Path) -> list[str]:
    try:
        return sorted((path.name for path in folder.iterdir() if is_version(path.name)), key=version_key)
    except OSError:
        return []
