"""Short ways to say what is found, offered and set, and strategies for all of it."""

from typing import Any

from hypothesis import strategies as st

from rdagent.config import UpdateSettings
from rdagent.update.decision import Begin, Decision, Found, OnDisk, Refuse, Settled, Unasked, Wait
from rdagent.update.offers import Offer
from rdagent.update.plan import decide
from rdagent.update.policy import Hold, Policy, Stopped
from release.record import Bad, Chosen, Record, Trial

NOW = 1_790_000_000.0
"""A Monday, 2026-09-21 14:13:20Z."""
MACHINE = "vm7"
AT_ONCE = UpdateSettings(jitter=0.0)
HERE = "cpython-3.11.7 x86_64 glibc-2.36 linux-6.18"


def digest_of(version: str) -> str:
    return f"{version.replace('.', ''):0>64}"


def chosen(version: str) -> Chosen:
    return Chosen(version, digest_of(version))


def on_disk(version: str, **fields: Any) -> OnDisk:
    return OnDisk(version=version, digest=fields.pop("digest", digest_of(version)), **fields)


def found(running: str = "0.1.0", **fields: Any) -> Found:
    """A component that runs `running` from a package."""
    record = fields.pop("record", None) or Record(component="telemetry", current=chosen(running or "0.1.0"))
    fields.setdefault("running_digest", digest_of(running))
    fields.setdefault("whole", (on_disk(running or "0.1.0"),))
    return Found(running=running, record=record, environment=HERE, python="3.11.7", **fields)


def bad(version: str, reason: str = "hangs", expires: float | None = None, environment: str = HERE) -> Record:
    return Record(
        component="telemetry", current=chosen("0.1.0"), bad={chosen(version).key: Bad(reason, expires, environment)}
    )


def offer(version: str = "0.2.0", wanted_by: Any = "channel", **fields: Any) -> Offer:
    fields.setdefault("target", f"packages/telemetry/telemetry-{version}.zip")
    fields.setdefault("digest", digest_of(version))
    return Offer(component=fields.pop("component", "telemetry"), version=version, wanted_by=wanted_by, **fields)


def decided(
    *offers: Offer,
    here: Found | None = None,
    policy: Policy | None = None,
    settings: UpdateSettings = AT_ONCE,
    unasked: Unasked | None = None,
) -> Decision:
    return decide(
        "telemetry",
        here or found(),
        offers,
        policy or Policy(),
        settings,
        now=NOW,
        machine=MACHINE,
        unasked=unasked or Unasked(),
    )


def begun(decision: Decision) -> str:
    """The version that is begun."""
    assert isinstance(decision, Begin), decision
    return decision.offer.version


def waits(decision: Decision) -> tuple[float | None, str, str]:
    assert isinstance(decision, Wait), decision
    return decision.until, decision.why, decision.lift


def refused(decision: Decision) -> tuple[str, str]:
    """Why, and what lifts it."""
    assert isinstance(decision, Refuse), decision
    return decision.why, decision.lift


def settled(decision: Decision) -> bool:
    assert isinstance(decision, Settled), decision
    return True


NUMBERS = ["0.0.9", "0.1", "0.1.0", "0.1.1", "0.2.0", "0.2.0.0", "1.0.0", "2.0.0"]
versions = st.sampled_from(NUMBERS)
junk = st.sampled_from(["", "junk", "1", "1.0.0-rc1", "1.0.0.0.0", "9999999999.0", "01.0", "1.0\n"])
digests = st.sampled_from([digest_of(version) for version in NUMBERS])
components = st.sampled_from(["telemetry", "netagent"])
times = st.sampled_from([0.0, NOW - 9e5, NOW - 10.0, NOW, NOW + 10.0, 4.1e9])

offers = st.builds(
    Offer,
    component=components,
    version=versions | junk,
    wanted_by=st.sampled_from(["operator", "host", "channel"]),
    from_version=versions | junk,
    digest=st.just("") | digests,
    target=st.sampled_from(["", "packages/x.zip"]),
    ring=st.none() | st.integers(0, 3),
    disallow_major=st.booleans(),
    seen_at=times,
)
pythons = st.sampled_from(["3.11", "3.14"])
disks = st.builds(OnDisk, version=versions, digest=digests, floor=versions, min_python=pythons)
reasons = st.sampled_from(["hangs", "hangs\nand more"])
chosens = st.builds(Chosen, versions, digests)
records = st.builds(
    Record,
    component=st.just("telemetry"),
    current=st.none() | chosens,
    trial=st.none() | st.builds(Trial, chosens, st.integers(0, 3)),
    bad=st.dictionaries(
        chosens.map(lambda one: one.key),
        st.builds(Bad, reasons, st.none() | times, st.sampled_from(["", HERE, "other"])),
        max_size=3,
    ),
)
founds = st.builds(
    Found,
    running=versions | junk,
    running_digest=st.just("") | digests,
    record=records,
    whole=st.lists(disks, max_size=3).map(tuple),
    others_on_trial=st.sampled_from(["", "", "netagent"]),
    python=st.sampled_from(["", "3.11.7"]),
    environment=st.just(HERE),
)
holds = st.builds(Hold, times, st.none() | times)
policies = st.builds(
    Policy,
    pins=st.dictionaries(components, versions, max_size=1),
    holds=st.dictionaries(components | st.just(""), holds, max_size=2),
    asked=st.dictionaries(components, versions | st.just(""), max_size=2),
    stopped=st.none()
    | st.builds(
        Stopped,
        component=components,
        version=versions,
        why=st.just("hangs"),
        rest=st.fixed_dictionaries({"telemetry": versions, "netagent": versions}),
    ),
)
settings = st.builds(
    UpdateSettings,
    ring=st.integers(0, 3),
    jitter=st.sampled_from([0.0, 14400.0]),
    window=st.sampled_from(["", "00:00-24:00", "22:00-04:00", "Mon 14:00-15:00"]),
)
