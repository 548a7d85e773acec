"""How a host's memory is laid out, in SQLite and in PostgreSQL alike."""

from sqlalchemy import Column, Float, Integer, LargeBinary, MetaData, Table, Text

METADATA = MetaData()

HOST = Table("host", METADATA, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))
"""What is true of the host as a whole: its signing secret, the addresses of its last run."""

VMS = Table(
    "vm",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("document", LargeBinary, nullable=False),
)
"""What is wanted of each VM: a VmState as JSON. `revision` grows with each change."""

PLACES = Table(
    "place",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("address", Text, primary_key=True),
    Column("vm", Text, nullable=False),
)
"""Whose an address is: two workers must not give it to two VMs. Of VMs without doors of their own."""

TOLD = Table(
    "told",
    METADATA,
    Column("vm", Text, primary_key=True),
    Column("heartbeats", Integer, nullable=False, server_default="0"),
    Column("health", LargeBinary),
    Column("status", LargeBinary),
    Column("status_at", Float),
    Column("status_count", Integer, nullable=False, server_default="0"),
    Column("status_by", Text, nullable=False, server_default=""),
    Column("agent_logs", Integer, nullable=False, server_default="0"),
)

OBSERVATIONS = Table(
    "observation",
    METADATA,
    Column("vm", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("document", LargeBinary, nullable=False),
)

EVENTS = Table(
    "event",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("vm", Text, nullable=False, index=True),
    Column("size", Integer, nullable=False),
    Column("document", LargeBinary, nullable=False),
)

REQUESTS = Table(
    "request",
    METADATA,
    Column("vm", Text, primary_key=True),
    Column("endpoint", Text, primary_key=True),
    Column("count", Integer, nullable=False),
)

TRANSCRIPT = Table(
    "transcript",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("document", LargeBinary, nullable=False),
)

FAULTS = Table(
    "fault",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("document", LargeBinary, nullable=False),
    Column("hits", Integer, nullable=False, server_default="0"),
    Column("spoiled", Integer, nullable=False, server_default="0"),
)
"""The rules in force; `hits`: requests each was asked about, `spoiled`: answers it changed."""
