"""Two channels, one goal state: order, restarts, certificates that change, a host that contradicts itself."""

import asyncio
import base64
import json
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from ipc.statefile import write_atomically
from tests.guestagent.goalstate.conftest import Fabric, Paper, Start, extensions_config, vm_settings


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def openssl(*arguments: str | Path, stdin: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, check=True).stdout


def opened(lib: Path, settings: Any) -> bytes:
    """Protected settings, as an extension opens them."""
    certificate, key = (lib / f"{settings.thumbprint}.{end}" for end in ("crt", "prv"))
    sealed = base64.b64decode(settings.protected)
    return openssl("cms", "-decrypt", "-inform", "DER", "-recip", certificate, "-inkey", key, stdin=sealed)


def fast_track_file(lib: Path) -> Path:
    return lib / "fast_track.json"


# -- a well-behaved host -----------------------------------------------------------------------------------------------


def test_the_first_goal_state_is_on_disk_whole_before_it_arrives(start: Start, fabric: Fabric) -> None:
    async def work() -> None:
        fabric.add(protected={"password": "hunter2"})
        async with start(fabric) as watching:
            await watching.until(lambda: watching.arrivals, "the first goal state")
            assert watching.arrivals == ["incarnation_2"]
            lib, (name,) = watching.places.lib, watching.watch.thumbprints
            assert (mode(lib / f"{name}.crt"), mode(lib / f"{name}.prv")) == (0o400, 0o400)
            assert mode(lib / "TransportPrivate.pem") == 0o400
            (settings,) = watching.current.handlers[0].settings
            assert json.loads(opened(lib, settings)) == {"password": "hunter2"}
            assert (lib / "SharedConfig.xml").read_bytes().startswith(b"<?xml")
            assert (lib / "HostingEnvironmentConfig.xml").exists()
            assert (lib / "GoalState.1.xml").exists()
            (folder,) = watching.history()
            assert folder.partition("__")[2].startswith("2-")
            stored = {path.name for path in (lib / "history" / folder).iterdir()}
            assert stored == {
                "GoalState.xml",
                "ExtensionsConfig.xml",
                "HostingEnvironmentConfig.xml",
                "SharedConfig.xml",
                "Certificates.json",
            }
            listed = json.loads((lib / "history" / folder / "Certificates.json").read_bytes())
            assert listed == [{"thumbprint": name, "hasPrivateKey": True}]
            assert watching.watch.problem == ""

    asyncio.run(work())


def test_the_newer_channel_is_in_force_and_the_first_to_arrive(start: Start, fabric: Fabric) -> None:
    async def work() -> None:
        fabric.add()
        fabric.add(fast_track=True)
        async with start(fabric) as watching:
            await watching.until(lambda: watching.arrivals)
            # Not the older one first.
            assert watching.arrivals[0].startswith("etag_")
            assert watching.watch.fast_track
            assert json.loads(fast_track_file(watching.places.lib).read_bytes())["timestamp"].endswith("Z")
            fabric.add()
            await watching.until(lambda: watching.id == "incarnation_3")
            await watching.until(lambda: not fast_track_file(watching.places.lib).exists())
            fabric.add(fast_track=True)
            await watching.until(lambda: len(watching.arrivals) == 3)
            assert watching.id.startswith("etag_")

    asyncio.run(work())


@pytest.mark.parametrize(("slow", "ticks", "first"), [("/vmSettings", 4, 'etag_"1"'), ("shared", 6, "incarnation_1")])
def test_the_slower_channel_is_heard_before_the_very_first_choice(
    start: Start, paper: Paper, slow: str, ticks: int, first: str
) -> None:
    async def work() -> None:
        paper.config, paper.fast = extensions_config(str(ticks)), (200, '"1"', vm_settings(5))
        paper.shut[slow] = threading.Event()
        async with start(paper) as watching:
            other = "GoalState" if slow == "/vmSettings" else "VmSettings"
            await watching.until(lambda: watching.entries(other) and slow in paper.asked)
            paper.shut[slow].set()
            await watching.until(lambda: watching.arrivals)
            assert watching.arrivals == [first]

    asyncio.run(work())


def test_a_container_that_moved_without_a_word_is_followed(start: Start, fabric: Fabric) -> None:
    async def work() -> None:
        async with start(fabric) as watching:
            await watching.until(lambda: watching.arrivals)
            moved = fabric.api("POST", "/api/move")["container_id"]
            await watching.until(lambda: watching.container == moved)
            fabric.add(fast_track=True)
            await watching.until(lambda: watching.id.startswith("etag_"))
            assert watching.arrivals[0] == "incarnation_1"

    asyncio.run(work())


@pytest.mark.parametrize("fault", [("status", 410), ("invalid-container", None)])
def test_a_stale_container_at_the_plugin_is_one_goal_state_and_one_repetition(
    start: Start, fabric: Fabric, fault: tuple[str, float | None]
) -> None:
    async def work() -> None:
        # Looks an hour apart: what comes, comes by the repetition.
        fabric.fault("vmsettings", fault[0], fault[1], count=1)
        async with start(fabric, goal_state_period=3600.0) as watching:
            await watching.until(lambda: watching.watch.fast_track)
            assert fabric.requests("vmsettings") == 2
            assert fabric.requests("goalstate") == 2
            assert watching.watch.problem == ""

    asyncio.run(work())


def test_a_goal_state_without_a_role_instance_is_asked_for_again(start: Start, fabric: Fabric) -> None:
    async def work() -> None:
        fabric.fault("goalstate", "no-role-instance", count=3)
        async with start(fabric) as watching:
            await watching.until(lambda: watching.arrivals)
            assert not watching.entries("FetchGoalState")

    asyncio.run(work())


def test_hold_is_read_with_an_incarnation_and_features_are_required(start: Start, fabric: Fabric) -> None:
    async def work() -> None:
        async with start(fabric) as watching:
            await watching.until(lambda: watching.arrivals)
            fabric.api("POST", "/api/hold", {"on": True})
            fabric.add()
            await watching.until(lambda: watching.id == "incarnation_2")
            assert watching.current.on_hold
            fabric.api("POST", "/api/hold", {"on": False})
            fabric.api("POST", "/api/required-features", {"names": ["MultipleExtensionsPerHandler", "Levitation"]})
            await watching.until(lambda: watching.id == "incarnation_3")
            assert not watching.current.on_hold
            assert watching.current.unsupported_features == ("Levitation",)
            assert watching.current.handlers

    asyncio.run(work())


# -- certificates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_a_certificate_rotated_without_an_incarnation_is_there_before_it_is_needed(
    start: Start, fabric: Fabric, kind: str
) -> None:
    async def work() -> None:
        fabric.add(protected={"secret": "old"})
        async with start(fabric) as watching:
            await watching.until(lambda: watching.arrivals)
            lib, (old,) = watching.places.lib, watching.watch.thumbprints
            fresh = fabric.api("POST", "/api/certificates/rotate", {"ec": kind == "ec"})["thumbprint"]
            fabric.add("Contoso.Tools.Runner", protected={"secret": "new"}, fast_track=True)
            await watching.until(lambda: len(watching.arrivals) == 2)
            assert watching.watch.thumbprints == (fresh,)
            secrets = [json.loads(opened(lib, one.settings[0]))["secret"] for one in watching.current.handlers]
            assert secrets == ["old", "new"]
            assert (lib / f"{old}.prv").exists()
            assert not watching.entries("Certificates")

    asyncio.run(work())


def test_all_certificates_of_one_pfx_are_stored_rsa_and_ec(start: Start, fabric: Fabric) -> None:
    async def work() -> None:
        fabric.api("POST", "/api/certificates", {"ec": True})
        fabric.api("POST", "/api/certificates", {})
        async with start(fabric) as watching:
            await watching.until(lambda: watching.arrivals)
            assert len(watching.watch.thumbprints) == 3
            for name in watching.watch.thumbprints:
                certificate, key = (watching.places.lib / f"{name}.{end}" for end in ("crt", "prv"))
                assert openssl("x509", "-noout", "-pubkey", "-in", certificate) == openssl(
                    "pkey", "-pubout", "-in", key
                )

    asyncio.run(work())


def test_the_history_lists_the_certificates_of_its_own_goal_state(start: Start, fabric: Fabric) -> None:
    async def work() -> None:
        async with start(fabric) as watching:
            await watching.until(lambda: watching.arrivals)
            fresh = fabric.api("POST", "/api/certificates/rotate", {})["thumbprint"]
            fabric.add()
            await watching.until(lambda: watching.last == "incarnation_2")

            def listed() -> list[object]:
                return [json.loads(one.read_bytes()) for one in watching.places.lib.glob("history/*__2*/Cert*.json")]

            await watching.until(lambda: listed() == [[{"thumbprint": fresh, "hasPrivateKey": True}]])

    asyncio.run(work())


def test_a_certificate_replaced_without_a_word_is_there_at_once(start: Start, fabric: Fabric) -> None:
    """It is fetched by a child process: what the host sent is not looked for before that is done."""

    async def work() -> None:
        fabric.add()
        # Whoever waits for a period waits in vain.
        async with start(fabric, goal_state_period=600.0, long_poll=20.0) as watching:
            await watching.until(lambda: watching.arrivals)
            await watching.until(lambda: watching.watch.fast_track)
            fresh = fabric.api("POST", "/api/certificates/rotate", {})["thumbprint"]
            fabric.add(fast_track=True, protected={"password": "hunter2"})
            await watching.until(lambda: watching.last.startswith("etag_"))
            (settings,) = watching.current.handlers[0].settings
            assert settings.thumbprint == fresh
            assert json.loads(opened(watching.places.lib, settings)) == {"password": "hunter2"}

    asyncio.run(work())


def test_a_thumbprint_the_host_does_not_send_is_waited_for_once_and_told(start: Start, paper: Paper) -> None:
    async def work() -> None:
        paper.config, paper.certificates = extensions_config("5"), b"<CertificateFile/>"
        paper.fast = (200, '"0"', vm_settings(5, source="Fabric"))
        async with start(paper, goal_state_period=0.5) as watching:
            await watching.until(lambda: watching.arrivals and watching.watch.fast_track)
            before = len(paper.asked)
            paper.fast = (200, '"1"', vm_settings(6, thumbprint="A" * 40))
            await watching.until(lambda: watching.id == 'etag_"1"')
            asked = paper.asked[before:]
            # At once, and once more after a period.
            assert len([one for one in asked if one.startswith("certificates")]) == 2
            assert asked.count("extensions") == 2
            (told,) = watching.entries("Certificates")
            assert "A" * 40 in told.message
            assert not told.ok

    asyncio.run(work())


def test_certificates_that_cannot_be_had_now_do_not_hold_up_the_goal_state_and_are_had_later(
    start: Start, fabric: Fabric
) -> None:
    async def work() -> None:
        fabric.fault("certificates", "status", 500, count=2)
        async with start(fabric) as watching:
            await watching.until(lambda: watching.arrivals)
            assert watching.watch.thumbprints == ()
            assert watching.watch.problem.startswith("certificates: ")
            await watching.until(lambda: watching.watch.thumbprints and not watching.watch.problem)

    asyncio.run(work())


@pytest.mark.parametrize("cipher", ["AES128_CBC", "DES_EDE3_CBC"])
def test_a_cipher_the_host_does_not_speak_falls_back_to_the_other(start: Start, paper: Paper, cipher: str) -> None:
    async def work() -> None:
        paper.config, paper.certificates, paper.refuse_cipher = extensions_config("5"), b"<CertificateFile/>", cipher
        async with start(paper) as watching:
            await watching.until(lambda: watching.arrivals)
            asked = [one for one in paper.asked if one.startswith("certificates")]
            expected = ["AES128_CBC", "DES_EDE3_CBC"] if cipher == "AES128_CBC" else ["AES128_CBC"]
            assert asked == [f"certificates {one}" for one in expected]
            assert watching.watch.problem == ""

    asyncio.run(work())


# -- order -------------------------------------------------------------------------------------------------------------


def test_support_that_stops_leaves_an_older_goal_state_reported_and_not_executed(start: Start, fabric: Fabric) -> None:
    async def work() -> None:
        fabric.add()
        fabric.add("Contoso.Tools.Runner", fast_track=True)
        async with start(fabric) as watching:
            await watching.until(lambda: watching.id.startswith("etag_"))
            fabric.api("POST", "/api/fast-track", {"on": False})
            await watching.until(lambda: watching.id == "incarnation_2")
            await watching.until(lambda: not fast_track_file(watching.places.lib).exists())
            assert "older" in watching.current.withheld
            assert watching.current.status_blob
            assert not watching.watch.fast_track
            assert watching.changes == ["incarnation_2"]
        before = fabric.requests("certificates")
        async with start(fabric) as watching:
            # Nor after a restart.
            await watching.until(lambda: fabric.requests("certificates") > before)
            fabric.add()
            await watching.until(lambda: watching.arrivals)
            assert watching.arrivals == ["incarnation_3"]
            assert watching.current.withheld == ""

    asyncio.run(work())


def test_support_that_stopped_while_we_were_away_is_noticed(start: Start, fabric: Fabric) -> None:
    async def work() -> None:
        fabric.add()
        fabric.add("Contoso.Tools.Runner", fast_track=True)
        async with start(fabric) as watching:
            await watching.until(lambda: watching.last.startswith("etag_"))
        fabric.api("POST", "/api/fast-track", {"on": False})
        async with start(fabric) as watching:
            await watching.until(lambda: watching.id == "incarnation_2")
            assert watching.current.withheld
        # A newer incarnation than what FastTrack delivered is just the goal state.
        fabric.api("POST", "/api/fast-track", {"on": True})
        async with start(fabric) as watching:
            await watching.until(lambda: watching.last.startswith("etag_"))
        fabric.api("POST", "/api/fast-track", {"on": False})
        fabric.add()
        async with start(fabric) as watching:
            await watching.until(lambda: watching.id == "incarnation_3")
            assert watching.current.withheld == ""

    asyncio.run(work())


def test_support_that_stops_while_the_wireserver_is_away_is_seen_to_later(start: Start, paper: Paper) -> None:
    async def work() -> None:
        paper.config, paper.fast = extensions_config("50"), (200, '"1"', vm_settings(60))
        async with start(paper) as watching:
            await watching.until(lambda: watching.id == 'etag_"1"')
            paper.config, paper.fast = b"rubbish", (404, "", b"")
            await watching.until(lambda: "vmSettings" in watching.watch.problem)
            assert fast_track_file(watching.places.lib).exists()
            assert watching.id == 'etag_"1"'
            paper.config = extensions_config("50")
            await watching.until(lambda: watching.changes == ["incarnation_1"])
            assert watching.current.withheld
        # The same number, created later: another goal state.
        paper.config = extensions_config("70")
        async with start(paper) as watching:
            await watching.until(lambda: watching.arrivals == ["incarnation_1"])
            assert watching.current.withheld == ""

    asyncio.run(work())


@pytest.mark.parametrize("ticks", ["4", "", "soon", "9" * 30])
def test_what_was_created_earlier_does_not_come_into_force_and_that_is_told(
    start: Start, paper: Paper, ticks: str
) -> None:
    async def work() -> None:
        paper.config = extensions_config("5")
        async with start(paper) as watching:
            await watching.until(lambda: watching.arrivals)
        for restart in range(2):
            paper.incarnation, paper.config = str(restart + 8), extensions_config(ticks)
            async with start(paper) as watching:
                await watching.until(lambda: "was created before incarnation_1" in watching.watch.problem)
                await watching.until(lambda: watching.arrivals == ["incarnation_1"])
                paper.incarnation, paper.config = "1", extensions_config("5")
                await watching.until(lambda: not watching.watch.problem)
                assert watching.arrivals == ["incarnation_1"]
        paper.incarnation, paper.config = "0", extensions_config("5")
        async with start(paper) as watching:
            # A lower incarnation is as new as a higher one.
            await watching.until(lambda: watching.id == "incarnation_0")

    asyncio.run(work())


def test_a_host_without_creation_times_is_followed_as_long_as_it_has_none(start: Start, paper: Paper) -> None:
    async def work() -> None:
        paper.config = extensions_config("")
        async with start(paper) as watching:
            await watching.until(lambda: watching.id == "incarnation_1")
            paper.incarnation = "2"
            await watching.until(lambda: watching.id == "incarnation_2")
            paper.incarnation, paper.config = "3", extensions_config("7")
            await watching.until(lambda: watching.id == "incarnation_3")

    asyncio.run(work())


def test_an_incarnation_that_comes_back_created_later_is_another_one(start: Start, paper: Paper) -> None:
    async def work() -> None:
        paper.config = extensions_config("5")
        async with start(paper) as watching:
            await watching.until(lambda: watching.arrivals)
        paper.config = extensions_config("6", name="Contoso.Tools.Other")
        async with start(paper) as watching:
            await watching.until(lambda: watching.arrivals)
            assert (watching.arrivals, watching.current.created_on_ticks) == (["incarnation_1"], 6)
            assert watching.current.handlers[0].name == "Contoso.Tools.Other"

    asyncio.run(work())


def test_the_disk_of_another_vm_begins_anew(start: Start, paper: Paper) -> None:
    async def work() -> None:
        paper.config, paper.fast = extensions_config("50"), (200, '"1"', vm_settings(60))
        async with start(paper) as watching:
            await watching.until(lambda: watching.last == 'etag_"1"')
        paper.instance, paper.config, paper.fast = "other._vm0", extensions_config("5"), (404, "", b"")
        async with start(paper) as watching:
            await watching.until(lambda: watching.id == "incarnation_1")
            assert (watching.current.created_on_ticks, watching.current.withheld) == (5, "")

    asyncio.run(work())


# -- a host that contradicts itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ticks", ["5", ""])
def test_a_goal_state_without_extensions_config_is_no_successor(start: Start, paper: Paper, ticks: str) -> None:
    async def work() -> None:
        async with start(paper) as watching:
            # The very first: known, and nothing is done for it.
            await watching.until(lambda: watching.changes)
            assert (watching.id, watching.arrivals) == ("incarnation_1", [])
            paper.incarnation, paper.config = "2", extensions_config(ticks)
            await watching.until(lambda: watching.id == "incarnation_2")
            paper.incarnation, paper.config = "3", None
            await watching.until(lambda: "has no ExtensionsConfig" in watching.watch.problem)
            assert watching.id == "incarnation_2"
            paper.incarnation, paper.config = "4", extensions_config(ticks)
            await watching.until(lambda: watching.arrivals == ["incarnation_2", "incarnation_4"])
            assert watching.watch.problem == ""

    asyncio.run(work())


def test_a_document_that_cannot_be_read_leaves_the_last_one_in_force_and_is_kept_for_whoever_looks(
    start: Start, paper: Paper
) -> None:
    async def work() -> None:
        paper.config, paper.fast = extensions_config("5"), (200, '"1"', vm_settings(6))
        async with start(paper) as watching:
            await watching.until(lambda: watching.id == 'etag_"1"')
            paper.incarnation, paper.config = "2", b'<Extensions><a href="http://h/?sv=1&amp;sig=secret"></Extensions>'
            await watching.until(lambda: "ExtensionsConfig: " in watching.watch.problem)
            # The other channel is not held up.
            paper.fast = (200, '"2"', vm_settings(7))
            await watching.until(lambda: watching.id == 'etag_"2"')
            paper.fast = (200, '"3"', b"{")
            await watching.until(lambda: "vmSettings: " in watching.watch.problem)
            assert watching.id == 'etag_"2"'
            found = {path.name: path.read_text() for path in watching.places.lib.glob("history/*/unreadable.*")}
            assert sorted(found) == ["unreadable.ExtensionsConfig.xml", "unreadable.VmSettings.json"] or list(
                found
            ) == ["unreadable.VmSettings.json"]
            assert not any("secret" in text for text in found.values())
            paper.incarnation, paper.config, paper.fast = "3", extensions_config("8"), (200, '"4"', vm_settings(6))
            await watching.until(lambda: watching.id == "incarnation_3" and not watching.watch.problem)

    asyncio.run(work())


@pytest.mark.parametrize("answer", [(500, "", b""), (200, "", b"{}"), (304, "", b""), (200, '"1"', b"[]")])
def test_a_plugin_out_of_order_does_not_hold_up_the_wireserver(
    start: Start, paper: Paper, answer: tuple[int, str, bytes]
) -> None:
    async def work() -> None:
        paper.config, paper.fast = extensions_config("5"), answer
        async with start(paper) as watching:
            await watching.until(lambda: watching.arrivals == ["incarnation_1"])
            paper.incarnation, paper.config = "2", extensions_config("6")
            await watching.until(lambda: watching.arrivals == ["incarnation_1", "incarnation_2"])
            assert "vmSettings" in watching.watch.problem

    asyncio.run(work())


# -- restarts and disks ------------------------------------------------------------------------------------------------


def test_a_restart_while_the_host_is_away_knows_what_was_in_force(start: Start, paper: Paper, fabric: Fabric) -> None:
    async def work() -> None:
        fabric.add(protected={"password": "hunter2"})
        async with start(fabric) as watching:
            await watching.until(lambda: watching.arrivals)
            before, listed = watching.current, watching.watch.thumbprints
            container = watching.container
        state = watching.places.state_of("guestagent")
        assert mode(state / "goalstate.json") == 0o600
        for path in state.glob("*.json"):
            assert b"hunter2" not in path.read_bytes()
        paper.incarnation = ""  # a host that answers nothing of use
        async with start(paper) as watching:
            # Known at once, before anybody was asked.
            assert (watching.current, watching.watch.thumbprints) == (before, listed)
            assert watching.watch.plugin()
            assert watching.container == container
            await watching.until(lambda: watching.arrivals)
            assert watching.arrivals == ["incarnation_2"]
            assert "goal state" in watching.watch.problem
        async with start(fabric) as watching:
            await watching.until(lambda: watching.arrivals)
            await watching.until(lambda: fabric.requests("certificates") > 1)
            assert watching.arrivals == ["incarnation_2"]

    asyncio.run(work())


def test_a_damaged_memory_is_told_and_begun_anew(start: Start, paper: Paper) -> None:
    async def work() -> None:
        paper.config = extensions_config("5")
        async with start(paper) as watching:
            await watching.until(lambda: watching.arrivals)
        write_atomically(watching.places.state_of("guestagent") / "goalstate.json", b'{"in_force": 17}')
        async with start(paper) as watching:
            assert "goalstate.json" in watching.watch.problem
            await watching.until(lambda: watching.arrivals and not watching.watch.problem)

    asyncio.run(work())


def test_disks_that_take_nothing_do_not_hold_up_the_goal_state(start: Start, paper: Paper) -> None:
    async def work() -> None:
        paper.config = extensions_config("5")
        async with start(paper) as watching:
            places = watching.places
            # Nothing can be written at these names.
            (places.lib / "history").write_bytes(b"")
            for path in (places.lib / "SharedConfig.xml", places.state_of("guestagent") / "goalstate.json"):
                path.mkdir(parents=True)
            await watching.until(lambda: watching.arrivals)
            assert "goalstate.json cannot be written" in watching.watch.problem
            (places.state_of("guestagent") / "goalstate.json").rmdir()
            await watching.until(lambda: not watching.watch.problem)
            assert (places.state_of("guestagent") / "goalstate.json").is_file()

    asyncio.run(work())
