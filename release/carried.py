"""What a newer release wrote into the record: we do not know it, but it stays when we write."""

from collections.abc import Iterator
from typing import Any

Fields = dict[str, Any]


def carried(old: Fields, new: Fields) -> Fields:
    """`new` with the unknown fields of `old`, the slot it was made from; both are whole records as JSON has them.

    Those of a version follow it wherever it stands now; those of a trial or of an entry of the bad list stay as long
    as it is the same one.
    """
    versions = {_key(one): one for one in _versions(old)}
    for one in _versions(new):
        one.update(_unknown(versions.get(_key(one), {}), one))
    trial, before = new["trial"], old.get("trial")
    if trial and before and _key(trial["target"]) == _key(before["target"]):
        trial.update(_unknown(before, trial))
    for name, entry in new["bad"].items():
        listed = old.get("bad", {}).get(name, {})
        if listed.get("reason") == entry["reason"]:
            entry.update(_unknown(listed, entry))
    return {**old, **new}


def _versions(record: Fields) -> Iterator[Fields]:
    trial = record.get("trial") or {}
    yield from filter(None, (record.get("current"), record.get("previous"), trial.get("target")))


def _key(chosen: Fields) -> tuple[str, str]:
    return chosen["version"], chosen["digest"]


def _unknown(old: Fields, new: Fields) -> Fields:
    return {name: value for name, value in old.items() if name not in new}
