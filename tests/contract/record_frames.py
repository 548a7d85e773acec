"""Writes frames-MAJOR.MINOR.json once, when a minor version is released; never over an existing file."""

import sys
from pathlib import Path
from typing import Any

import msgspec

from ipc.contract import EVENTS, PROTOCOL, REQUESTS, netagent
from ipc.contract.every import Description, HealthReport, Hello
from ipc.contract.guestagent import (
    CancelRun,
    ExplainExtension,
    Explanation,
    ExtensionDetail,
    ExtensionView,
    FolderView,
    GetExtension,
    GetRun,
    GoalStateArrived,
    GuestStatus,
    Link,
    OperationView,
    RetryBegun,
    RetryExtension,
    RunParameter,
    RunScript,
    RunStarted,
    RunView,
)
from ipc.contract.netagent import (
    Address,
    ChangeView,
    FirewallView,
    LeaseChanged,
    LeaseView,
    Network,
    NetworkPlan,
    ProbeView,
    Resolver,
    Route,
    Rule,
    SwitchNetwork,
    WireServerFound,
    WireServerState,
)
from ipc.contract.rdagent import (
    BadVersion,
    ComponentTruth,
    GetUpdateHistory,
    HoldUpdates,
    HostView,
    ImportBundle,
    ImportedBundle,
    PinVersion,
    PlannedUpdate,
    RepositoryView,
    RollBack,
    TrialView,
    Truth,
    TruthChanged,
    UnblockVersion,
    UpdateChanged,
    UpdateEvent,
    UpdateHistory,
    UpdateNow,
    UpdateOutcome,
    UpdatePlan,
    Updates,
    UpdateView,
)
from ipc.contract.telemetry import Entry, GetTimeline, JournalGrew, Record, Recorded, Timeline
from ipc.frame import Header, Kind, encode
from ipc.message import Event, Message, Request

ONCE = "made-up-once"
ENTRY = Entry(
    id="e1", at=1790000000.25, monotonic=12.5, boot="b00t", component="guestagent", version="0.1.0", pid=7,
    operation="Enable", ok=False, message="exit 3", subject="Contoso.Tools.Greeter", subject_version="2.0.1",
    correlation="incarnation_4", duration_ms=120,
)  # fmt: skip

# One of each with every field set; those not named here have no fields, or only defaults.
EXAMPLES: list[Message] = [
    Description(
        component="telemetry", version="0.1.0", pid=7, protocol_major=1, protocol_minor=0, started_at=1.5, digest="d1"
    ),
    HealthReport(state="busy", what="enabling", since=2.5, limit_seconds=300.0, outside=True),
    Hello(component="telemetry", version="0.1.0", pid=7),
    Truth(
        host=HostView(
            ready=True, wireserver="http://127.0.0.1:1", heartbeats=3, last_heartbeat_at=4.5, problem="late"
        ),
        components=[
            ComponentTruth(
                name="guestagent", state="hung", version="0.1.0", pid=7, health="ok", why="silent", since=5.5,
                limit_seconds=15.0,
            )
        ],
    ),
    TruthChanged(component="guestagent"),
    GuestStatus(
        goal_state="incarnation_4", goal_state_at=6.5, problem="none", certificates=["AB"], reported_at=7.5,
        reported_by="direct", report_problem="none",
        extensions=[
            ExtensionView(
                name="Contoso.Tools.Greeter", version="2.0.1", extension="job", sequence_number=5,
                handler_status="Ready", status="success", code=0, message="ok", step="enabling", since=8.5,
            )
        ],
        probe_ports=[17017],
    ),
    GoalStateArrived(goal_state="incarnation_4"),
    GetExtension(name="greeter"),
    ExtensionDetail(
        name="Contoso.Tools.Greeter", wanted_version="2.0.1", wanted_state="enabled", locations=["http://h/m"],
        extensions=[ExtensionView(name="Contoso.Tools.Greeter", version="2.0.0", failure="transient", retry_at=9.5,
                                  wanted="2.0.1")],
        folders=[FolderView(version="2.0.0", state="Enabled", path="/lib/x", extensions=["job"])],
        operations=[OperationView(
            id="o", kind="enable", version="2.0.0", extension="job", command="/lib/x/e", environment={"VERSION": "2"},
            state="ended", pid=8, began=1.5, ended=2.5, exit_status=3, timed_out=True, error="none",
            limit_seconds=300.0, goal_state="incarnation_4", stdout="/o", stderr="/e",
        )],
        files=["/lib/x/config/5.settings"],
    ),
    RetryExtension(name="greeter", extension="job"),
    RetryBegun(extensions=["Contoso.Tools.Greeter/job"]),
    ExplainExtension(name="greeter", extension="job"),
    Explanation(
        name="Contoso.Tools.Greeter", verdict="extension", summary="exit 3", next_step="look",
        chain=[Link(stage="command", ok=False, text="enable", at=1.5, evidence="boom")],
    ),
    Network(
        mode="observe",
        links=[netagent.Link(index=1, name="lo", mac="00:00:00:00:00:00", mtu=65536, up=True, carrier=True)],
        addresses=[Address(link="lo", address="127.0.0.1/8")],
        routes=[Route(destination="default", gateway="10.0.0.1", link="eth0", metric=100, protocol=16)],
        resolver=Resolver(manager="file", nameservers=["168.63.129.16"], search=["internal"]),
        wireserver=WireServerState(url="http://168.63.129.16", found_in="lease", detail="dhclient.eth0.leases"),
        why="configured: observe", primary="eth0", managers={"eth0": "dhclient"},
        rules=[Rule(source="10.1.0.4/32", table=16803, priority=16803, protocol=168)],
        leases=[LeaseView(
            link="eth0", source="netagent", address="10.0.0.4/24", wireserver="168.63.129.16", state="BOUND",
            server="10.0.0.1", seconds=20, seconds_left=9,
        )],
        held=[ChangeView(what="add route", why="it is missing", held="somebody undid it")], reachable=True,
        firewall=FirewallView(state="on", packets={"denied": 3}),
        probes=[ProbeView(
            port=8080, answers=True, probes=4, last_source="168.63.129.16", last_at=12.5, problem="none"
        )],
        problems=["none"],
        observed_at=9.5,
    ),
    WireServerFound(url="http://168.63.129.16", found_in="route", detail="168.63.129.16/32"),
    Record(entries=[ENTRY]),
    Recorded(count=1),
    GetTimeline(after=3, limit=10, component="guestagent", subject="Contoso.Tools.Greeter"),
    Timeline(entries=[ENTRY], cursor=4, dropped=2),
    JournalGrew(cursor=4),
    NetworkPlan(mode="repair", why="static", changes=[ChangeView(what="add route", why="missing")], problems=["none"]),
    SwitchNetwork(on=False, keep=False),
    LeaseChanged(link="eth0", address="10.0.0.4/24", why="lease of 10.0.0.1"),
    # 1.1
    RunScript(
        name="job", script=b"#!/bin/sh\n\xff\x00", script_path="/srv/job.sh",
        parameters=[RunParameter(name="WHO", value="world"), RunParameter(value="x y")], run_as="nobody",
        timeout_seconds=30, token=ONCE,
    ),
    RunStarted(name="job", sequence_number=2, stdout="/log/stdout", stderr="/log/stderr"),
    GetRun(name="job", sequence_number=2),
    CancelRun(name="job"),
    RunView(
        name="job", sequence_number=2, state="Failed", message="exit 3", exit_code=3, interrupted=True, output="out",
        error="err", stdout="/log/stdout", stderr="/log/stderr", started_at=11.5, ended_at=12.5, pid=7,
    ),
    # 1.3
    Updates(
        components=[UpdateView(
            component="telemetry", running="0.1.0", running_digest="d1", current="0.1.0", previous="0.0.9",
            staged=["0.2.0"], trial=TrialView(
                version="0.2.0", digest="d2", tries_left=2, since=13.5, well_seconds=4.5, needed_seconds=20.0
            ),
            bad=[BadVersion(version="0.1.1", digest="d3", reason="hangs", expires=99.5)], pinned="0.2.0", held=True,
            state="on trial", wanted="0.2.0", wanted_by="operator", why="on trial", lift="agentctl update now",
            since=14.5,
        )],
        repository=RepositoryView(url="http://h/r", checked_at=15.5, reached_at=16.5, problem="late"),
        held=True, outcome=UpdateOutcome(component="telemetry", version="0.2.0", ok=True, message="well"),
        looked_at=16.75, problems=["family telemetry: no version"],
    ),
    UpdatePlan(steps=[PlannedUpdate(
        component="telemetry", from_version="0.1.0", to_version="0.2.0", wanted_by="channel", at=17.5, blocked="held",
        lift="agentctl update hold --off",
    )]),
    UpdateNow(component="telemetry", version="0.2.0"),
    PinVersion(component="telemetry", version="0.2.0"),
    HoldUpdates(component="telemetry", on=False, until=18.5),
    UnblockVersion(component="telemetry", version="0.1.1"),
    RollBack(component="telemetry", reason="slow", version="0.1.0"),
    GetUpdateHistory(component="telemetry", limit=10),
    UpdateHistory(events=[UpdateEvent(
        at=19.5, component="telemetry", phase="trial", version="0.2.0", from_version="0.1.0", wanted_by="host",
        ok=False, message="hangs", seconds=20.5,
    )]),
    ImportBundle(path="/srv/bundle.zip"),
    ImportedBundle(versions=["telemetry 0.2.0"], refused=["netagent 0.2.0: unsigned"]),
    UpdateChanged(component="telemetry"),
]  # fmt: skip


def record() -> dict[str, Any]:
    """Wire name to kind, frames in hex, and the body as plain values."""
    given = {type(example): example for example in EXAMPLES}
    found = {}
    for kind in [*REQUESTS.values(), *EVENTS.values(), *{request.reply for request in REQUESTS.values()}]:
        message = given.get(kind) or kind()
        role: Kind = "request" if isinstance(message, Request) else "event" if isinstance(message, Event) else "reply"
        header = Header(
            id="guestagent/7/ab/1", kind=role, name=kind.wire_name(), sender="guestagent/7/ab", version="0.1.0",
            protocol=PROTOCOL, deadline=10.5,
        )  # fmt: skip
        first, second = encode(header, message)
        found[kind.wire_name()] = {
            "kind": role,
            "header": first.hex(),
            "body": second.hex(),
            "value": msgspec.to_builtins(message),
        }
    return dict(sorted(found.items()))


if __name__ == "__main__":
    target = Path(__file__).with_name(f"frames-{PROTOCOL[0]}.{PROTOCOL[1]}.json")
    if target.exists():
        sys.exit(f"{target} stands; released frames are never edited")
    target.write_bytes(msgspec.json.format(msgspec.json.encode(record()), indent=1) + b"\n")
