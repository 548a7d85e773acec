"""The history: what is kept, what is taken out, and that it never gets in the way."""

import json
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestagent.history import BYTES_LIMIT, ITEMS_LIMIT, MARK, History, redacted
from wire import xml

SETTINGS = {
    "runtimeSettings": [
        {
            "handlerSettings": {
                "publicSettings": {"fileUris": ["https://h/f?sv=1&sig=SECRET"], "password": "SECRET", "who": "world"},
                "protectedSettings": "SECRET",
                "protectedSettingsCertThumbprint": "AB12",
            }
        }
    ]
}
CONFIG = f"""<Extensions><Plugins><Plugin name="a.b" location="https://h/m.xml?sv=1&amp;sig=SECRET"/></Plugins>
<RuntimeSettings seqNo="3">{json.dumps(SETTINGS)}</RuntimeSettings>
<StatusUploadBlob>https://h/s?sv=1&amp;sr=b&amp;sig=SECRET</StatusUploadBlob></Extensions>""".encode()
VM_SETTINGS = json.dumps(
    {
        "statusUploadBlob": {"value": "https://h/s?sig=SECRET"},
        "extensionGoalStates": [
            {
                "location": "https://h/m.xml?sv=1&sig=SECRET",
                "settings": [
                    {
                        "ProtectedSettings": "SECRET",
                        "publicSettings": json.dumps(SETTINGS["runtimeSettings"][0]["handlerSettings"]),
                    }
                ],
            }
        ],
    }
).encode()


class Clock:
    def __init__(self) -> None:
        self.now = 1_900_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def history(tmp_path: Path, clock: Clock) -> History:
    return History(tmp_path, clock)


def items(lib: Path) -> list[str]:
    return sorted(path.name for path in (lib / "history").iterdir())


def test_a_goal_state_has_a_folder_of_its_own_and_older_ones_are_zipped(
    tmp_path: Path, history: History, clock: Clock
) -> None:
    history.store("4", "", {"GoalState.xml": b"<GoalState/>"})
    history.manifest("Contoso.Tools.Greeter", b"<PluginVersionManifest/>")
    history.agent_manifest("Prod", b"<PluginVersionManifest/>")
    history.status(b'{"version":"1.1"}')
    history.status(b'{"version":"1.2"}')
    folder = tmp_path / "history" / "2030-03-17T17-46-40__4"
    expected = {
        "GoalState.xml",
        "Contoso.Tools.Greeter.manifest.xml",
        "waagent.Prod.manifest.xml",
        "waagent_status.json",
    }
    assert {path.name for path in folder.iterdir()} == expected
    assert json.loads((folder / "waagent_status.json").read_bytes()) == {"version": "1.2"}
    for path in (folder.parent, folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    clock.now += 1
    history.store("4", '"7-1"', {"VmSettings.json": b"{}"})
    assert items(tmp_path) == ["2030-03-17T17-46-40__4.zip", "2030-03-17T17-46-41__4-7-1"]
    with zipfile.ZipFile(folder.with_name(f"{folder.name}.zip")) as archive:
        assert set(archive.namelist()) == expected
    assert stat.S_IMODE(folder.with_name(f"{folder.name}.zip").stat().st_mode) == 0o600


@pytest.mark.parametrize(("name", "content"), [("ExtensionsConfig.xml", CONFIG), ("VmSettings.json", VM_SETTINGS)])
def test_secrets_are_taken_out_and_the_rest_can_be_read(name: str, content: bytes) -> None:
    text = redacted(name, content).decode()
    assert "SECRET" not in text
    assert MARK in text
    assert "world" in text
    assert "AB12" in text
    assert "https://h/m.xml?" in text
    if name.endswith(".xml"):
        settings = json.loads(xml.text_of(xml.parse(name, text.encode()), "RuntimeSettings"))
        assert settings["runtimeSettings"][0]["handlerSettings"]["protectedSettings"] == MARK
    else:
        assert json.loads(text)["extensionGoalStates"][0]["settings"][0]["ProtectedSettings"] == MARK


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ExtensionsConfig.xml", CONFIG[:-20]),
        ("ExtensionsConfig.xml", CONFIG.replace(b'"', b"&quot;")[:-20]),
        ("VmSettings.json", VM_SETTINGS[:-5]),
        ("document.txt", CONFIG),
    ],
)
def test_secrets_are_taken_out_of_what_cannot_be_read_too(name: str, content: bytes) -> None:
    assert b"SECRET" in content
    assert b"SECRET" not in redacted(name, content)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=8), inner, max_size=3)
            | inner.map(lambda value: {"protectedSettings": "SECRET", "x": value})
            | inner.map(lambda value: ["https://h/x?sv=1&sig=SECRET", value])
        ),
        max_leaves=15,
    )
)
def test_no_shape_of_json_lets_a_secret_through(value: object) -> None:
    content = json.dumps(value).encode()
    for name in ("VmSettings.json", "unreadable.txt"):
        assert b"SECRET" not in redacted(name, content)


@given(st.binary(max_size=200), st.sampled_from(["a.xml", "a.json", "a.txt"]))
def test_whatever_comes_can_be_stored(content: bytes, name: str) -> None:
    assert isinstance(redacted(name, content), bytes)


def test_a_hostile_tag_is_no_path(tmp_path: Path, history: History) -> None:
    history.store("../../x", 'W/"a\0b\n/.."', {"GoalState.xml": b"<GoalState/>"})
    history.manifest("../../y", b"<a/>")
    (folder,) = items(tmp_path)
    assert folder.startswith("2030-03-17T17-46-40__")
    assert "/" not in folder.partition("__")[2]
    assert sorted(path.name for path in tmp_path.rglob("*.xml")) == ["GoalState.xml", "_.._y.manifest.xml"]
    assert [path.name for path in tmp_path.iterdir()] == ["history"]


def test_items_and_bytes_are_bounded_and_what_is_not_ours_stays(tmp_path: Path, history: History, clock: Clock) -> None:
    own = tmp_path / "history" / "notes__of somebody"
    own.mkdir(parents=True)
    for number in range(ITEMS_LIMIT + 10):
        clock.now += 1
        history.store(str(number), "", {"GoalState.xml": b"<GoalState/>"})
    left = [name for name in items(tmp_path) if name != own.name]
    assert len(left) == ITEMS_LIMIT
    assert left[-1].endswith(f"__{ITEMS_LIMIT + 9}")
    assert left[0].endswith("__10.zip")
    # Three that do not fit together, as they were left by a larger limit.
    for number in range(3):
        with (tmp_path / "history" / f"2031-01-01T00-00-0{number}__1.zip").open("wb") as file:
            file.truncate(BYTES_LIMIT // 2)
    clock.now = 1_950_000_000.0
    history.store("last", "", {"GoalState.xml": b"<GoalState/>"})
    left = [name for name in items(tmp_path) if name != own.name]
    assert left == ["2031-01-01T00-00-02__1.zip", left[-1]]
    assert own.is_dir()


def test_the_newest_is_the_last_that_came_whatever_the_clock_says(
    tmp_path: Path, history: History, clock: Clock
) -> None:
    history.store("1", "", {"GoalState.xml": b"<GoalState/>"})
    clock.now -= 1000
    history.store("2", "", {"GoalState.xml": b"<GoalState/>"})
    history.manifest("a.b", b"<a/>")
    assert [name.partition("__")[2] for name in items(tmp_path)] == ["2", "1.zip"]
    assert list(tmp_path.glob("history/*__2/a.b.manifest.xml"))


def test_after_a_restart_the_newest_folder_goes_on(tmp_path: Path, history: History, clock: Clock) -> None:
    history.store("1", "", {"GoalState.xml": b"<GoalState/>"})
    History(tmp_path, clock).status(b"{}")
    assert list(tmp_path.glob("history/*__1/waagent_status.json"))
    # We ended between the archive and the folder it was made of.
    clock.now += 1
    folder = tmp_path / "history" / items(tmp_path)[0]
    folder.with_name(f"{folder.name}.zip").write_bytes(b"whole")
    History(tmp_path, clock).store("2", "", {"GoalState.xml": b"<GoalState/>"})
    assert not folder.exists()
    assert folder.with_name(f"{folder.name}.zip").read_bytes() == b"whole"


FULL = """
import resource, signal, sys
from pathlib import Path
from guestagent.history import History
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
history = History(Path(sys.argv[1]))
history.store("1", "", {"GoalState.xml": b"<GoalState/>"})
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
history.store("2", "", {"GoalState.xml": b"<GoalState/>", "SharedConfig.xml": b"<a>" + b"x" * 9000 + b"</a>"})
history.status(b"x" * 9000)
print("went on")
"""


def test_a_disk_that_takes_no_more_is_no_error_and_leaves_no_halves(tmp_path: Path) -> None:
    """Stands for a full disk: the kernel refuses to write on, half-way through a file."""
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "went on\n"
    names = [path.name for path in tmp_path.glob("history/*__2/*")]
    assert names == ["GoalState.xml"]
    assert done.stderr.count("history is not written for now") <= 1


def test_nothing_is_followed_out_of_the_history(tmp_path: Path, history: History, clock: Clock) -> None:
    history.store("1", "", {"GoalState.xml": b"<GoalState/>"})
    (folder,) = (tmp_path / "history").iterdir()
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    (folder / "waagent_status.json").symlink_to(outside)
    (folder.parent / "2000-01-01T00-00-00__0").symlink_to(tmp_path)
    history.status(b"{}")
    clock.now += 1
    history.store("2", "", {"GoalState.xml": b"<GoalState/>"})
    assert outside.read_bytes() == b"untouched"
    with zipfile.ZipFile(folder.with_name(f"{folder.name}.zip")) as archive:
        assert archive.namelist() == ["GoalState.xml"]
