"""Settings of both shapes: any bytes in, an order or a configuration error out."""

import base64
import contextlib
import gzip
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guestagent.runcommand.errors import BadSettings
from guestagent.runcommand.order import Order
from guestagent.runcommand.settings import (
    SCRIPT_LIMIT,
    parse_action,
    parse_managed,
    parse_protected,
    read_handler_settings,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
MANAGED_KEYS = [
    "source", "parameters", "runAsUser", "outputBlobUri", "errorBlobUri", "timeoutInSeconds", "asyncExecution",
    "treatFailureAsDeploymentFailure", "artifacts", "installAsService", "runAsPassword", "sourceSASToken",
    "outputBlobSASToken", "protectedParameters", "sourceManagedIdentity", "outputBlobManagedIdentity",
]  # fmt: skip
ACTION_KEYS = ["script", "commandToExecute", "fileUris", "skipDos2Unix", "timestamp", "storageAccountName"]


def objects(keys: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(keys) | st.text(max_size=8), json_values, max_size=6)


@given(st.binary(max_size=300))
@example(b"")
@example(b"\xef\xbb\xbf")
@example(b'{"runtimeSettings":' * 5000)
@example(b"[" * 100_000)
def test_any_bytes_are_settings_or_a_configuration_error(data: bytes) -> None:
    with contextlib.suppress(BadSettings):
        read_handler_settings(data)
    with contextlib.suppress(BadSettings):
        parse_protected(data)


@given(json_values)
def test_any_json_is_settings_or_a_configuration_error(value: Any) -> None:
    for document in (value, {"runtimeSettings": [value]}, {"runtimeSettings": [{"handlerSettings": value}]}):
        with contextlib.suppress(BadSettings):
            read_handler_settings(json.dumps(document).encode())


@given(objects(MANAGED_KEYS), objects(MANAGED_KEYS))
def test_any_managed_settings_are_an_order_or_a_configuration_error(
    public: dict[str, Any], protected: dict[str, Any]
) -> None:
    with contextlib.suppress(BadSettings):
        order = parse_managed({"source": {"script": "x"}, **public}, protected)
        assert bool(order.script) != bool(order.script_from)
        assert all("\0" not in one for one in (*order.arguments, *order.environment, *order.environment.values()))
        assert all("=" not in name for name in order.environment)


@given(objects(ACTION_KEYS), objects(ACTION_KEYS))
def test_any_action_settings_are_an_order_or_a_configuration_error(
    public: dict[str, Any], protected: dict[str, Any]
) -> None:
    with contextlib.suppress(BadSettings):
        order = parse_action(public, protected)
        assert bool(order.command) != (order.script is not None)


def test_all_that_managed_knows() -> None:
    order = parse_managed(
        {
            "SOURCE": {"scriptURI": "https://a.example/b/c.sh?x=1"},  # keys in any case
            "parameters": [{"name": "A", "value": "1"}, {"value": "two"}, {"name": "B", "value": ""}],
            "runAsUser": "joe",
            "outputBlobUri": "https://a.example/o",
            "errorBlobUri": "https://a.example/e",
            "timeoutInSeconds": 90,
            "asyncExecution": True,
            "treatFailureAsDeploymentFailure": True,
            "artifacts": [{"id": 3, "uri": "https://a.example/f", "fileName": "f"}],
            "surprise": {"is": "ignored"},
        },
        {
            "runAsPassword": "ignored too",
            "sourceSASToken": "?sig=s",
            "outputBlobSASToken": "sig=o",
            "errorBlobManagedIdentity": {"clientId": "c"},
            "protectedParameters": [{"name": "A", "value": "secret"}, {"value": "three"}],
            "artifacts": [{"id": 3, "sasToken": "&sig=f", "artifactManagedIdentity": {"objectId": "o"}}],
        },
    )
    assert order.script is None
    assert order.script_from is not None
    assert (order.script_from.url, order.script_from.file_name) == ("https://a.example/b/c.sh?x=1&sig=s", "c.sh")
    assert (order.arguments, order.environment) == (("two", "three"), {"A": "secret"})
    assert (order.run_as, order.timeout_seconds, order.asynchronous, order.failure_is_error) == (
        "joe",
        90.0,
        True,
        True,
    )
    assert order.output_blob is not None
    assert (order.output_blob.url, order.output_blob.signed) == ("https://a.example/o?sig=o", True)
    assert order.error_blob is not None
    assert (order.error_blob.url, order.error_blob.signed) == ("https://a.example/e", False)
    assert order.error_blob.identity is not None
    assert order.error_blob.identity.client_id == "c"
    (artifact,) = order.artifacts
    assert (artifact.url, artifact.file_name) == ("https://a.example/f?sig=f", "f")


def test_an_order_never_shows_its_secrets() -> None:
    order = parse_managed(
        {
            "source": {"scriptUri": "https://a.example/b?sig=CANARY"},
            "outputBlobUri": "https://a.example/o?sig=CANARY",
            "parameters": [{"name": "A", "value": "CANARY"}],
            "artifacts": [{"id": 1, "uri": "https://a.example/b?sig=CANARY"}],
        },
        {},
    )
    assert "CANARY" not in repr(order)
    assert "CANARY" not in repr((order.script_from, order.output_blob, order.artifacts))


@pytest.mark.parametrize(("value", "wanted"), [(0, None), (-5, None), (1, 1.0), ("30", 30.0), (None, None)])
def test_time_limits(value: Any, wanted: float | None) -> None:
    assert parse_managed({"source": {"script": "x"}, "timeoutInSeconds": value}, {}).timeout_seconds == wanted


@pytest.mark.parametrize(
    ("public", "protected", "reason"),
    [
        ({"source": {"script": "x", "scriptUri": "http://a/b"}}, {}, "exactly one of"),
        ({"source": {"script": "", "scriptUri": ""}}, {}, "exactly one of"),
        ({"installAsService": True}, {}, "installAsService is not supported"),
        ({"source": {"scriptUri": "ftp://a/b"}}, {}, "source.scriptUri is not a valid url"),
        ({"source": {"scriptUri": "http:///b"}}, {}, "source.scriptUri is not a valid url"),
        ({"source": {"scriptUri": "http://a/"}}, {}, "cannot extract a file name"),
        ({"source": {"scriptUri": "http://a/x/.."}}, {}, "cannot extract a file name"),
        ({"source": {"scriptUri": "http://a/x/%2e%2e"}}, {}, "cannot extract a file name"),
        ({"source": {"scriptUri": "http://a:99999/x"}}, {}, "is not a valid url"),
        ({"source": "x"}, {}, "source is not an object"),
        ({"parameters": {"A": "1"}}, {}, "parameters is not an array"),
        ({"parameters": [{"name": "A", "value": True}]}, {}, "parameters[0].value is not a string"),
        ({"parameters": [{"name": "A=B", "value": "1"}]}, {}, "cannot be the name of a variable"),
        ({"parameters": [{"name": "A", "value": "\0"}]}, {}, "contains a NUL"),
        ({}, {"protectedParameters": [{"name": "A", "value": 1.5}]}, "protectedParameters[0].value"),
        ({"asyncExecution": "yes"}, {}, "asyncExecution is not true or false"),
        ({"timeoutInSeconds": 1.5}, {}, "timeoutInSeconds is not an integer"),
        ({"runAsUser": "x" * 300}, {}, "runAsUser is not a user's name"),
        ({"artifacts": [{"id": 1, "uri": "http://a/b", "fileName": "../x"}]}, {}, "cannot extract a file name"),
        ({"artifacts": [{"id": 1}]}, {}, "artifacts[0].uri is missing"),
        (
            {"artifacts": [{"id": n, "uri": "http://a/b", "fileName": "x"} for n in (1, 2)]},
            {},
            "two artifacts have the same fileName",
        ),
        ({}, {"sourceManagedIdentity": {"clientId": "a", "objectId": "b"}, "x": 1}, ""),
    ],
)
def test_what_managed_refuses(public: dict[str, Any], protected: dict[str, Any], reason: str) -> None:
    source = {"scriptUri": "http://a/b"} if "sourceManagedIdentity" in protected else {"script": "x"}
    with pytest.raises(BadSettings) as caught:
        parse_managed({"source": source, **public}, protected)
    assert reason in str(caught.value)
    assert caught.value.exit_code == -202


def action(**public: Any) -> Order:
    return parse_action(public, {})


def test_action_takes_scripts_of_its_size_only() -> None:
    assert action(script=base64.b64encode(b"x" * (SCRIPT_LIMIT // 4 * 3)).decode()).script is not None
    with pytest.raises(BadSettings, match="exceeded the maximum allowed length"):
        action(script=base64.b64encode(b"x" * SCRIPT_LIMIT).decode())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (gzip.compress(bytes(20_000_000), mtime=0), "more than"),
        (gzip.compress(b"echo", mtime=0)[:-6], "cut short"),
        (b"\x1f\x8b\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "failed to decompress"),
    ],
)
def test_zipped_scripts_that_are_none(data: bytes, reason: str) -> None:
    with pytest.raises(BadSettings, match=reason):
        action(script=base64.b64encode(data).decode())


@pytest.mark.parametrize(
    ("public", "protected", "reason"),
    [
        ({}, {}, "'commandToExecute' is not specified"),
        ({"commandToExecute": ""}, {}, "'commandToExecute' is not specified"),
        ({"commandToExecute": "x", "surprise": 1}, {}, "additional property 'surprise' is not allowed"),
        ({"commandToExecute": "x"}, {"surprise": 1}, "additional property 'surprise' is not allowed"),
        ({"commandToExecute": "x"}, {"timestamp": 1}, "additional property 'timestamp' is not allowed"),
        ({"commandToExecute": "x"}, {"commandToExecute": "y"}, "both in public and protected"),
        ({"script": "eA=="}, {"script": "eA=="}, "both in public and protected"),
        ({"commandToExecute": "x", "script": "eA=="}, {}, "only one is valid"),
        ({"commandToExecute": "x"}, {"script": "eA=="}, "only one is valid"),
        ({"commandToExecute": "x"}, {"storageAccountName": "abc"}, "'storageAccountKey' must be specified"),
        ({"script": "no base64 !"}, {}, "failed to base64 decode script"),
    ],
)
def test_what_action_refuses_and_why(public: dict[str, Any], protected: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadSettings) as caught:
        parse_action(public, protected)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "public",
    [
        {"commandToExecute": 5},
        {"commandToExecute": "x", "fileUris": "http://a/b"},
        {"commandToExecute": "x", "fileUris": ["not a url"]},
        {"commandToExecute": "x", "timestamp": "now"},
        {"commandToExecute": "x", "timestamp": True},
        {"commandToExecute": "x", "skipDos2Unix": 1},
        {"commandToExecute": "x", "CommandToExecute": "y"},
        {"commandToExecute": None},
        {"commandToExecute": "a\0b"},
    ],
)
def test_what_action_refuses(public: dict[str, Any]) -> None:
    with pytest.raises(BadSettings):
        parse_action(public, {})


@pytest.mark.parametrize("name", ["AB", "ab", "a" * 25, "with-dash"])
def test_storage_account_names(name: str) -> None:
    with pytest.raises(BadSettings):
        parse_action({"commandToExecute": "x"}, {"storageAccountName": name, "storageAccountKey": "a2V5"})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"{}", "0 items"),
        (b'{"runtimeSettings":[{},{}]}', "2 items"),
        (b'{"runtimeSettings":[{"handlerSettings":{"publicSettings":[1]}}]}', "publicSettings is not an object"),
        (b'{"runtimeSettings":[{"handlerSettings":{"protectedSettings":"%"}}]}', "not base64"),
        (b'{"runtimeSettings":[{"handlerSettings":{"protectedSettings":"eA=="}}]}', "no protectedSettingsCert"),
    ],
)
def test_files_that_are_no_settings(content: bytes, reason: str) -> None:
    with pytest.raises(BadSettings, match=reason):
        read_handler_settings(content)


@pytest.mark.parametrize("public", [{"a": 1}, '{"a": 1}', None, ""])
def test_public_settings_may_be_an_object_its_text_or_nothing(public: Any) -> None:
    document = {"runtimeSettings": [{"handlerSettings": {"publicSettings": public, "protectedSettings": None}}]}
    data = b"\xef\xbb\xbf" + json.dumps(document).encode()
    if public == "":
        with pytest.raises(BadSettings):
            read_handler_settings(data)
        return
    assert read_handler_settings(data).public == ({"a": 1} if public else {})
