"""What can go wrong with names.

DnsError
├── BadWish      what is wanted is no name or address
├── Absent       the manager, or its program, is not there
└── NotOurs      somebody else owns the resolver, and is left alone
"""


class DnsError(Exception):
    """The resolver cannot be what it should be; the text says why and what to do."""


class BadWish(DnsError):
    """A name or address of a lease that goes no further."""


class Absent(DnsError):
    """Nobody answers."""


class NotOurs(DnsError):
    """Left alone."""
