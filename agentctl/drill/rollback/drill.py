"""`agentctl drill rollback`: bad builds, each published, asked for, tried, found out, and taken back without a hand.

A good build of this checkout is in force. Each bad one is a version of its own, in the repository of the local host,
which asks for it. The record on the disk tells when it is found out, the good version's own answer when it is back.
"""

import time
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from agentctl.drill.findings import Findings
from agentctl.drill.group.contract import Broken
from agentctl.drill.group.hostwords import Host
from agentctl.drill.group.stage import Stage
from agentctl.drill.group.updates import SCALED, Versions
from agentctl.drill.group.watch import Watch
from agentctl.drill.progress import Steps
from agentctl.drill.report import Case
from agentctl.drill.rollback.badbuilds import BUILDS, BadBuild
from agentctl.drill.rollback.takenback import Expected, TakenBack
from agentctl.drill.variants import changed, checkout, package
from agentctl.errors import CommandError, WrongUse
from ipc.errors import IpcError
from ipc.places import COMPONENTS
from release.build import Built
from release.record import Chosen

GOOD = "1.0.0"


class Choice(msgspec.Struct, frozen=True):
    """One bad build of one component."""

    component: str
    build: BadBuild

    @property
    def name(self) -> str:
        return f"{self.component} {self.build.name}"


def choose(component: str, only: Iterable[str], *, everything: bool) -> list[Choice]:
    """What to try: rdagent's own last, for it judges the others. Raises WrongUse for a name there is not, or both."""
    names = tuple(only)
    if names and everything:
        raise WrongUse("--all and --only do not go together: leave one of them out")
    if unknown := set(names) - {one.name for one in BUILDS}:
        raise WrongUse(f"there is no bad build {min(unknown)!r}; see: agentctl drill rollback --list")
    found = []
    for one in sorted(COMPONENTS, key=lambda name: (name == "rdagent", COMPONENTS.index(name))):
        for build in BUILDS:
            if names:
                fits = build.name in names and one == (component or "telemetry")
            elif everything:
                fits = one in build.of and component in {"", one}
            else:
                fits = one == component if component and one in build.of else one in build.quick and not component
            if fits:
                found.append(Choice(one, build))
    return found


def good_ones(stage: Stage) -> dict[str, Built]:
    """A good version of each of the four. Raises CommandError."""
    source = checkout(stage.root / "sources" / "good")
    return {name: package(source, name, GOOD, stage.root / "packages", stage.key) for name in COMPONENTS}


def bring_up(stage: Stage, built: Mapping[str, Built], components: Iterable[str]) -> dict[str, Chosen]:
    """Good versions of all four in force, the host and the group up; the host wants those of `components`.

    Raises CommandError.
    """
    good = {name: stage.install(one) for name, one in built.items()}
    for name, chosen in good.items():
        stage.choose(name, chosen)
    stage.up(sample=True)
    host = Host(stage)
    for name in components:
        host.publish(built[name].path)
        host.want(name, GOOD)
    return good


def run(stage: Stage, choices: Sequence[Choice], steps: Steps, findings: Findings) -> None:
    """The whole drill. Raises CommandError if it cannot be done at all."""
    findings.facts = {"scaled down": f"{SCALED}; in brackets what a VM has"}
    built, good = good_ones(stage), dict[str, Chosen]()
    # One more that is as the host wants it: its success must not hide what becomes of the others.
    wanted = {"telemetry", *(one.component for one in choices)}
    for number, choice in enumerate(choices, 1):
        steps.begin(f"{choice.name}: {choice.build.what}")
        if findings.cases and not findings.cases[-1].ok:
            # Whatever it left, in versions, records, processes or the host, is not the next one's fault.
            stage.clear()
            good = {}
        good = good or bring_up(stage, built, wanted)
        case = _case(stage, choice, f"1.1.{number}", good)
        findings.cases.append(case)
        figures = ", ".join(f"{name.removesuffix('_s')} {value:.1f} s" for name, value in case.measured.items())
        steps.end(f"{case.name}: {case.problem or figures or 'well'}", style="" if case.ok else "red")


def _case(stage: Stage, choice: Choice, version: str, good: dict[str, Chosen]) -> Case:
    began, measured, evidence = time.monotonic(), dict[str, float](), list[str]()
    problem = ""
    watch = Watch(stage)
    try:
        built = bad_package(stage, choice, version)
        expected = Expected(
            component=choice.component, build=choice.build, bad=Chosen(version, built.digest), good=good
        )
        measured = TakenBack(stage, Versions(stage), Host(stage), expected).run(built.path)
    except (Broken, CommandError, IpcError) as error:
        problem, evidence = str(error), watch.evidence()
    return Case(
        name=choice.name,
        kind=choice.component,
        ok=not problem,
        problem=problem,
        seconds=time.monotonic() - began,
        measured=measured,
        evidence=evidence,
    )


def bad_package(stage: Stage, choice: Choice, version: str) -> Built:
    """Signed and complete, but for what is meant to be wrong. Raises CommandError."""
    build, component = choice.build, choice.component
    source = changed(checkout(stage.root / "sources" / version), build.changes(component))
    built = package(source, component, version, stage.root / "packages", build.key(stage.key))
    if build.spoil is None:
        return built
    return msgspec.structs.replace(built, digest=build.spoil(built, stage.key))
