"""What the host hears of the version it asked for."""

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from guestagent.report import status_blob
from guestagent.updatestatus import update_status
from ipc.contract.rdagent import RepositoryView, UpdateOutcome, Updates, UpdateView
from ipc.places import COMPONENTS
from wire.extensions import AgentFamily

ASKED = AgentFamily(name="telemetry", version="0.2.0", is_version_from_rsm=True, is_vm_enabled_for_rsm_upgrades=True)


def known(outcome: UpdateOutcome | None, view: UpdateView | None = None) -> Updates:
    return Updates(components=[view] if view else [], repository=RepositoryView(), outcome=outcome)


GOOD = UpdateOutcome(component="telemetry", version="0.2.0", ok=True)
BAD = UpdateOutcome(component="telemetry", version="0.2.0", ok=False, message="it hangs")


def test_success_and_error() -> None:
    assert update_status([ASKED], known(GOOD)) == {
        "expectedVersion": "0.2.0",
        "status": "Success",
        "code": 0,
        "formattedMessage": {"lang": "en-US", "message": ""},
    }
    found = update_status([ASKED], known(BAD))
    assert found is not None
    assert (found["status"], found["code"], found["expectedVersion"]) == ("Error", 1, "0.2.0")
    assert found["formattedMessage"]["message"] == "telemetry 0.2.0: it hangs"
    told = json.loads(status_blob([], None, version="1", fast_track=False, system={}, update=found))
    assert told["aggregateStatus"]["guestAgentStatus"]["updateStatus"] == found
    runs = known(GOOD, UpdateView(component="telemetry", running="0.3.0"))
    assert (update_status([ASKED], runs) or {})["expectedVersion"] == "0.3.0"
    silent = json.loads(status_blob([], None, version="1", fast_track=False, system={}))
    assert "updateStatus" not in silent["aggregateStatus"]["guestAgentStatus"]


def test_nothing_is_said() -> None:
    assert update_status([ASKED], None) is None
    assert update_status([ASKED], known(None)) is None
    assert update_status([], known(BAD)) is None
    assert update_status([AgentFamily(name="telemetry")], known(BAD)) is None
    other = AgentFamily(name="Prod", version="9", is_version_from_rsm=True, is_vm_enabled_for_rsm_upgrades=True)
    assert update_status([other], known(BAD)) is None
    # Another try is under way, whose end is not known.
    trying = UpdateView(component="telemetry", state="on trial", wanted_by="host")
    assert update_status([ASKED], known(BAD, trying)) is None
    settled = UpdateView(component="telemetry", state="rolled back", wanted_by="host")
    assert update_status([ASKED], known(BAD, settled)) is not None


def test_what_waits_is_neither_well_nor_refused() -> None:
    held = msgspec.structs.replace(BAD, message="all updates are held until 22:00", waiting=True)
    assert update_status([ASKED], known(held)) == {
        "expectedVersion": "0.2.0",
        "status": "Transitioning",
        "code": 0,
        "formattedMessage": {"lang": "en-US", "message": "telemetry 0.2.0: all updates are held until 22:00"},
    }


def test_no_token_in_a_url_leaves_the_machine() -> None:
    secret = UpdateOutcome(
        component="telemetry", version="0.2.0", ok=False, message="https://a.example/x?sv=1&sig=SECRET: 403"
    )
    found = update_status([ASKED], known(secret))
    assert "SECRET" not in str(found)


@given(st.sampled_from(COMPONENTS), st.text(max_size=20), st.booleans(), st.text(max_size=3000))
def test_whatever_came_of_it_fits_the_blob(component: str, version: str, ok: bool, message: str) -> None:
    outcome = UpdateOutcome(component=component, version=version, ok=ok, message=message)
    found = update_status([ASKED], known(outcome))
    assert (found is None) == (component != "telemetry")
    assert found is None or len(found["formattedMessage"]["message"]) <= 1000
