"""The extension policy: what it allows, and that whatever is wrong with it blocks everything and says where."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestagent.errors import PolicyError
from guestagent.policy import SIZE_LIMIT, Policy, parse_policy, read_policy

WHOLE: dict[str, Any] = {
    "policyVersion": "0.1.0",
    "extensionPolicies": {
        "allowListedExtensionsOnly": True,
        "signatureRequired": True,
        "extensions": {
            "Contoso.Tools.Greeter": {"signatureRequired": False, "runtimePolicy": {"any": ["thing", None]}},
            "Contoso.Tools.Plain": {},
        },
    },
}


def parsed(document: Any) -> Policy:
    return parse_policy(json.dumps(document).encode())


def problem(document: Any) -> str:
    with pytest.raises(PolicyError) as raised:
        parsed(document)
    return str(raised.value)


def with_rules(**rules: Any) -> dict[str, Any]:
    return {"policyVersion": "0.1.0", "extensionPolicies": rules}


def test_listed_handlers_are_allowed_in_any_case_and_others_are_not() -> None:
    policy = parsed(WHOLE)
    assert policy.refusal("Contoso.Tools.Greeter") == ""
    assert policy.refusal("contoso.TOOLS.plain") == ""
    assert "Contoso.Tools.Other is not among them" in policy.refusal("Contoso.Tools.Other")


def test_a_list_without_the_switch_forbids_nothing() -> None:
    policy = parsed(with_rules(extensions={"Contoso.Tools.Greeter": {}}))
    assert policy.refusal("Contoso.Tools.Other") == ""


def test_an_empty_list_with_the_switch_forbids_everything() -> None:
    assert parsed(with_rules(allowListedExtensionsOnly=True)).refusal("Contoso.Tools.Greeter")


@pytest.mark.parametrize(
    ("everywhere", "own", "expected"),
    [
        (True, None, True),
        (True, False, False),
        (False, True, True),
        (False, None, False),
        (None, None, False),
        (None, True, True),
    ],
)
def test_a_handlers_own_word_on_signatures_wins(everywhere: bool | None, own: bool | None, expected: bool) -> None:
    policy = parsed(with_rules(signatureRequired=everywhere, extensions={"A.B": {"signatureRequired": own}}))
    assert policy.signature_required("a.b") is expected
    assert policy.signature_required("C.D") is bool(everywhere)


@pytest.mark.parametrize("version", ["0", "0.0", "0.1", "0.1.0", "0.0.9"])
def test_versions_up_to_ours_are_read(version: str) -> None:
    assert parsed({"policyVersion": version}) == Policy()


@pytest.mark.parametrize("version", ["0.1.1", "0.2", "1", "1.0.0", "0.10.0"])
def test_a_version_newer_than_ours_is_not_guessed_at(version: str) -> None:
    assert f"policyVersion {version} is newer" in problem({"policyVersion": version})


@pytest.mark.parametrize(
    "version", [None, 0.1, 1, True, "", "v0.1.0", "0.1.0\n", "0.1.0.0", "-1", "0.", "\u0660.\u0661", "9" * 10]
)
def test_what_is_no_version_is_refused(version: Any) -> None:
    assert problem({"policyVersion": version}).startswith("policyVersion is missing")


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ([], "the policy is not an object"),
        ({}, "policyVersion is missing"),
        ({**WHOLE, "policyversion": "0.1.0"}, "nobody knows: 'policyversion'"),
        ({"policyVersion": "0.1.0", "extensionPolicies": []}, "extensionPolicies is not an object"),
        (with_rules(allowListedExtensionOnly=True), "nobody knows: 'allowListedExtensionOnly'"),
        (with_rules(allowListedExtensionsOnly="true"), "extensionPolicies.allowListedExtensionsOnly is neither"),
        (with_rules(signatureRequired=1), "extensionPolicies.signatureRequired is neither"),
        (with_rules(extensions=["A.B"]), "extensionPolicies.extensions is not an object"),
        (with_rules(extensions={"A.B": None}), "extensionPolicies.extensions.'A.B' is not an object"),
        (with_rules(extensions={"A.B": {"signatureRequired": "no"}}), "extensions.'A.B'.signatureRequired is neither"),
        (with_rules(extensions={"A.B": {"allow": True}}), "extensions.'A.B' has an attribute nobody knows: 'allow'"),
        (with_rules(extensions={"A.B": {}, "a.b": {}}), "extensions.'a.b' is there twice"),
        (with_rules(extensions={"a.b": {}, "A.B": {}}), "extensions.'A.B' is there twice"),
    ],
)
def test_the_reason_names_the_attribute(document: Any, named: str) -> None:
    assert named in problem(document)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"\xef\xbb\xbf" + json.dumps(WHOLE).encode(), "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"policyVersion": NaN}', "NaN is no JSON"),
        (b'{"policyVersion": "0.1.0", "policyVersion": "0.1.0"}', "'policyVersion' is there twice"),
        (b" " * (SIZE_LIMIT + 1), "larger than"),
        (b'{"policyVersion": "0.1.0", "\\ud800": 1}', "nobody knows: '\\ud800'"),
    ],
)
def test_bytes_that_are_no_policy(data: bytes, named: str) -> None:
    with pytest.raises(PolicyError) as raised:
        parse_policy(data)
    assert named in str(raised.value)
    # It goes into logs and to the host.
    assert str(raised.value).encode()


def test_no_file_is_no_policy(tmp_path: Path) -> None:
    policy = read_policy(tmp_path / "policy.json")
    assert policy == Policy()
    assert policy.refusal("Contoso.Tools.Greeter") == ""
    assert not policy.signature_required("Contoso.Tools.Greeter")


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(WHOLE))
    assert read_policy(path) == parsed(WHOLE)


def test_a_file_that_cannot_be_obeyed_blocks_everything(tmp_path: Path) -> None:
    wrong, folder, dangling, pipe = (tmp_path / name for name in ("wrong", "folder", "dangling", "pipe"))
    wrong.write_text(json.dumps(with_rules(extensions={"A.B": {"signature": True}})))
    folder.mkdir()
    dangling.symlink_to(tmp_path / "nowhere")
    os.mkfifo(pipe)
    for path, why in (
        (wrong, "nobody knows: 'signature'"),
        (folder, "cannot be read: Is a directory"),
        (dangling, "a link to nothing"),
        (pipe, "it is not a file"),
        (wrong / "below", "cannot be read"),
    ):
        policy = read_policy(path)
        assert str(path) in policy.refusal("A.B")
        assert why in policy.refusal("A.B")
        assert policy.signature_required("A.B")


NAMES = st.text(max_size=20)
POLICIES = st.fixed_dictionaries(
    {"policyVersion": st.sampled_from(["0.1.0", "0.0.1"])},
    optional={
        "extensionPolicies": st.fixed_dictionaries(
            {},
            optional={
                "allowListedExtensionsOnly": st.booleans() | st.none(),
                "signatureRequired": st.booleans() | st.none(),
                "extensions": st.dictionaries(
                    NAMES,
                    st.fixed_dictionaries({}, optional={"signatureRequired": st.booleans() | st.none()}),
                    max_size=5,
                ),
            },
        )
    },
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(POLICIES, NAMES)
def test_what_is_allowed_follows_from_the_document(document: dict[str, Any], handler: str) -> None:
    rules = document.get("extensionPolicies", {})
    listed = {name.casefold(): entry for name, entry in rules.get("extensions", {}).items()}
    if len(listed) != len(rules.get("extensions", {})):
        assert "is there twice" in problem(document)
        return
    policy = parsed(document)
    for name in (handler, *rules.get("extensions", {})):
        entry = listed.get(name.casefold())
        allowed = entry is not None or not rules.get("allowListedExtensionsOnly")
        own = entry.get("signatureRequired") if entry else None
        assert (policy.refusal(name) == "") is allowed
        assert policy.signature_required(name) is bool(rules.get("signatureRequired") if own is None else own)


@given(ANYTHING, st.sampled_from(["", "extensionPolicies", "extensions", "A.B"]))
def test_any_json_anywhere_is_a_policy_or_a_policy_error(value: Any, place: str) -> None:
    document: Any = {
        "": value,
        "extensionPolicies": {"policyVersion": "0.1.0", "extensionPolicies": value},
        "extensions": with_rules(extensions=value),
        "A.B": with_rules(extensions={"A.B": value}),
    }[place]
    try:
        policy = parsed(document)
    except PolicyError as error:
        assert str(error).encode()
    else:
        assert policy.problem == ""


def test_mutated_policies_are_policies_or_a_policy_error() -> None:
    original, dice = json.dumps(WHOLE).encode(), random.Random(5)
    refused = 0
    for _ in range(3000):
        data = bytearray(original)
        for _ in range(dice.randint(1, 3)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            parse_policy(bytes(data[: dice.choice([len(data), dice.randrange(len(data))])]))
        except PolicyError as error:
            refused += 1
            assert str(error).encode()
    assert refused > 1000
