"""Which document of a real host rdagent obeys: ExtensionsConfig or vmSettings."""

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.client import Client
from ipc.hostaddress import HostAddress
from rdagent.update.host import FastTrack, Instructions, choose, read_instructions
from tests.conftest import LocalHost
from wire.errors import WireError
from wire.extensions import ExtensionsGoalState, Source, newest
from wire.http import HttpClient
from wire.vmsettings import VmSettings

COMPONENTS = ("telemetry", "netagent")
Read = Callable[[Instructions | None], Instructions]


@pytest.fixture
def read(local_host: LocalHost) -> Read:
    endpoints = json.loads((local_host.root / "fabric" / "endpoints.json").read_text())
    host = HostAddress(
        wireserver=endpoints["wireserver"], hostgaplugin=endpoints["hostgaplugin"], imds=endpoints["imds"]
    )

    def ask(before: Instructions | None = None) -> Instructions:
        return read_instructions(HttpClient("test"), host, COMPONENTS, before.in_force if before else None)

    return ask


@pytest.fixture
def host(local_host: LocalHost) -> Client:
    client = Client(local_host.root)
    for version in ("0.2.0", "0.3.0"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("whatever", version)
        client.put("/api/families/telemetry", io.BytesIO(buffer.getvalue()), {"version": version})
    return client


def want(host: Client, version: str, *, fast_track: bool = False) -> None:
    host.post("/api/components", {"component": "telemetry", "version": version, "fast_track": fast_track})


def fault(host: Client, endpoint: str, name: str, value: float | None = None) -> None:
    host.post("/api/faults", {"endpoint": endpoint, "fault": name, "value": value})


def asked(found: Instructions) -> tuple[str, str]:
    """Of telemetry: the version, and the channel."""
    (family,) = found.families
    assert found.in_force is not None
    return family.version, found.in_force.source


def test_the_document_that_was_created_last(host: Client, read: Read) -> None:
    assert asked(read(None)) == ("", "Fabric")
    want(host, "0.2.0")
    assert asked(read(None)) == ("0.2.0", "Fabric")
    want(host, "0.3.0", fast_track=True)
    found = read(None)
    assert asked(found) == ("0.3.0", "FastTrack")
    assert [one.version for one in found.manifests["telemetry"]] == ["0.2.0", "0.3.0"]
    want(host, "0.2.0")
    assert asked(read(None)) == asked(read(found)) == ("0.2.0", "Fabric")
    want(host, "0.3.0", fast_track=True)
    host.delete("/api/components/telemetry")
    assert asked(read(None)) == ("", "Fabric")


def test_what_lies_in_an_extension_s_order_by_fast_track(host: Client, read: Read) -> None:
    """Any document of FastTrack says all that is wanted of versions, too."""
    want(host, "0.2.0")
    host.replace("/api/goal", {"handlers": [], "fast_track": True})
    assert asked(read(None)) == ("0.2.0", "FastTrack")


def test_without_an_answer_what_was_in_force_stays(host: Client, read: Read) -> None:
    want(host, "0.3.0", fast_track=True)
    found = read(None)
    for name, value in (("status", 500.0), ("wrong-bytes", None), ("html-page", None), ("reset", None)):
        fault(host, "vmsettings", name, value)
        after = read(found)
        assert asked(after) == ("0.3.0", "FastTrack")
        assert list(after.away) == [""]
        # Nothing is known to be in force: there may be a newer document than the one that can be read.
        with pytest.raises(WireError):
            read(None)
        host.delete("/api/faults")
    fault(host, "vmsettings", "status", 500)
    want(host, "0.2.0")
    assert asked(read(found)) == ("0.2.0", "Fabric")


def test_an_older_document_brings_nothing(host: Client, read: Read) -> None:
    want(host, "0.2.0")
    first = read(None)
    for channel, fast_track in (("extensionsconfig", False), ("vmsettings", True)):
        want(host, "0.3.0", fast_track=fast_track)
        for name in ("stale-ticks", "missing-ticks"):
            fault(host, channel, name)
            assert asked(read(first))[0] == "0.2.0"
            host.delete("/api/faults")
        assert asked(read(first))[0] == "0.3.0"
        want(host, "0.2.0")
        first = read(None)


def test_when_the_host_has_fast_track_no_more(host: Client, read: Read) -> None:
    want(host, "0.2.0")
    want(host, "0.3.0", fast_track=True)
    found = read(None)
    host.post("/api/fast-track", {"on": False})
    # What the WireServer said before is not done again, in no later look either.
    for _ in range(2):
        found = read(found)
        assert found.in_force is not None
        assert (found.in_force.source, found.families) == ("Fabric", ())
    want(host, "0.2.0")
    assert asked(read(found)) == ("0.2.0", "Fabric")
    assert asked(read(None)) == ("0.2.0", "Fabric")


def documents(source: Source) -> st.SearchStrategy[ExtensionsGoalState]:
    prefix = {"Fabric": "incarnation_", "FastTrack": "etag_"}[source]
    return st.builds(
        lambda number, ticks, withheld: ExtensionsGoalState(
            id=f"{prefix}{number}", source=source, created_on_ticks=ticks, withheld=withheld
        ),
        st.integers(1, 3),
        st.integers(0, 4),
        st.sampled_from(["", "", "too old"]) if source == "Fabric" else st.just(""),
    )


def answered(extensions: ExtensionsGoalState, repeats: bool) -> VmSettings:
    source: Source = "Fabric" if repeats else "FastTrack"
    return VmSettings(etag="1", supported=True, source=source, extensions=extensions)


KNOWN = st.none() | documents("Fabric") | documents("FastTrack")
ANSWERS: st.SearchStrategy[Any] = (
    st.none() | st.just("unsupported") | st.builds(answered, documents("FastTrack"), st.booleans())
)


@given(KNOWN, st.none() | documents("Fabric"), ANSWERS)
def test_one_of_those_there_are_and_never_an_older_one(
    known: ExtensionsGoalState | None, fabric: ExtensionsGoalState | None, fast: FastTrack
) -> None:
    found = choose(known, fabric, fast)
    heard = fast.extensions if isinstance(fast, VmSettings) and fast.source == "FastTrack" else None
    there = [one for one in (known, fabric, heard) if one is not None]
    assert (found is None) == (not there)
    if found is None:
        return
    assert (found.id, found.created_on_ticks) in {(one.id, one.created_on_ticks) for one in there}
    stopped = fast == "unsupported" and known is not None and known.source == "FastTrack" and fabric is not None
    if stopped:
        assert found.source == "Fabric"
    else:
        expected = newest(known, fabric, heard)
        assert expected is not None
        assert (found.id, found.created_on_ticks) == (expected.id, expected.created_on_ticks)
    if known is not None and found.created_on_ticks < known.created_on_ticks:
        assert found.withheld
