"""HandlerManifest.json as real packages carry it, and as none should."""

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestagent.errors import PackageError
from guestagent.handlermanifest import SIZE_LIMIT, HandlerManifest, parse_handler_manifest

COMMANDS = {
    "installCommand": "installer/install.py",
    "enableCommand": "shim.sh  -enable",
    "disableCommand": "./dsc.py disable",
    "updateCommand": "bin/x update",
    "uninstallCommand": "/bin/x uninstall",
}
PARSED = HandlerManifest(
    install="installer/install.py",
    enable="shim.sh  -enable",
    disable="./dsc.py disable",
    update="bin/x update",
    uninstall="bin/x uninstall",
)


def document(**manifest: Any) -> bytes:
    return json.dumps([{"version": 1.0, "handlerManifest": {**COMMANDS, **manifest}}]).encode()


def refusal(data: bytes) -> str:
    with pytest.raises(PackageError) as caught:
        parse_handler_manifest(data)
    assert caught.value.code == 1003
    assert "HandlerManifest.json" in str(caught.value)
    return str(caught.value)


def test_commands_are_lines_for_a_shell_without_a_leading_slash() -> None:
    assert parse_handler_manifest(document()) == PARSED


@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"name": "wrong", "version": "1.0"},
        {"version": 1, "signingInfo": {"type": 7}},
        {"resourceLimits": {"services": [{"name": "x.service"}]}, "supportsPolicy": [None]},
    ],
)
@pytest.mark.parametrize(
    "shape", [lambda one: [one], lambda one: one, lambda one: [one, "later ones count for nothing"]]
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_other_keys_shapes_and_a_byte_order_mark_do_not_matter(rest: dict[str, Any], shape: Any, mark: bytes) -> None:
    manifest = {**COMMANDS, "rebootAfterInstall": False, "resetStateCommand": "x"}
    data = json.dumps(shape({**rest, "handlerManifest": manifest}), indent=2).replace("\n", "\r\n").encode()
    found = parse_handler_manifest(mark + data)
    assert msgspec.structs.replace(found, limits=PARSED.limits, signing_info=None) == PARSED


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (True, True),
        ("true", True),
        ("TRUE", True),
        (False, False),
        ("false", False),
        ("yes", False),
        (1, False),
        (None, False),
    ],
)
def test_switches_are_booleans_or_the_word_true(value: Any, meant: bool) -> None:
    found = parse_handler_manifest(
        document(reportHeartbeat=value, continueOnUpdateFailure=value, supportsMultipleExtensions=value)
    )
    assert (found.report_heartbeat, found.continue_on_update_failure, found.multi_config) == (meant,) * 3


@pytest.mark.parametrize(
    ("mode", "with_install"),
    [
        ("UpdateWithInstall", True),
        ("updatewithinstall", True),
        (None, True),
        (7, True),
        ("UpdateWithoutInstall", False),
        ("", False),
    ],
)
def test_update_mode_says_whether_install_follows(mode: Any, with_install: bool) -> None:
    assert parse_handler_manifest(document(updateMode=mode)).update_with_install is with_install
    assert parse_handler_manifest(document()).update_with_install is True


@pytest.mark.parametrize("key", sorted(COMMANDS))
@pytest.mark.parametrize("value", [None, 7, "", "  \t", "/", "//", "/ ", "a\0b", ["a"]])
def test_what_is_no_command_is_named(key: str, value: Any) -> None:
    assert f"{key} is not a command" in refusal(document(**{key: value}))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "is not JSON"),
        (b"{half", "is not JSON"),
        (b'{"a": NaN}', "is not JSON"),
        (b"\xff\xfe[\0]\0", "is not JSON"),
        (b'["\xff"]', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"9" * 10_000, "is not JSON"),
        (b"null", "no handlerManifest object"),
        (b"[]", "no handlerManifest object"),
        (b"[[]]", "no handlerManifest object"),
        (b'[{"handlerManifest": []}]', "no handlerManifest object"),
        (b" " * (SIZE_LIMIT + 1), "larger than"),
    ],
)
def test_what_is_no_manifest_says_why(data: bytes, complaint: str) -> None:
    assert complaint in refusal(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([*COMMANDS, "updateMode", "reportHeartbeat", "supportsMultipleExtensions", "other"])


def check(data: bytes) -> None:
    """A manifest whose commands stay in the folder's reach, or the one error."""
    try:
        found = parse_handler_manifest(data)
    except PackageError as error:
        assert error.code == 1003
        return
    for command in (found.install, found.enable, found.disable, found.update, found.uninstall):
        assert command.strip()
        assert not command.startswith("/")
        assert "\0" not in command


@given(st.dictionaries(KEYS, JSON), st.booleans())
def test_any_values_are_a_manifest_or_a_package_error(values: dict[str, Any], listed: bool) -> None:
    one = {"handlerManifest": {**COMMANDS, **values}}
    check(json.dumps([one] if listed else one).encode())


@given(JSON | st.binary(max_size=60))
def test_any_document_is_a_manifest_or_a_package_error(value: Any) -> None:
    check(value if isinstance(value, bytes) else json.dumps(value).encode())


def test_mutated_manifests_are_manifests_or_package_errors() -> None:
    dice = random.Random(5)
    for _ in range(5000):
        data = bytearray(document(updateMode="UpdateWithInstall", continueOnUpdateFailure="true"))
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(data))
            data[at : at + dice.randrange(3)] = dice.choice(
                [b"", b'"', b"\\", b"{", b"]", bytes([dice.randrange(256)])]
            )
        check(bytes(data))
