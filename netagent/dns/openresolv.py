"""resolvconf(8), openresolv's or Debian's: one entry of ours beside those of others."""

from netagent.dns.errors import DnsError
from netagent.dns.program import run
from netagent.dns.wanted import DnsWanted, Old

_GONE = "No resolv.conf for interface"


class Openresolv:
    """Keeps entries by name, and writes the file from all of them."""

    def apply(self, wanted: DnsWanted, old: Old = ()) -> None:
        """Raises DnsError."""
        lines = [f"nameserver {one}" for one in wanted.nameservers]
        if wanted.search:
            lines.append(f"search {' '.join(wanted.search)}")
        run("resolvconf", "-a", _entry(wanted), given="\n".join(lines) + "\n")
        for one in old:
            if one.link != wanted.link:
                self.undo(one)

    def undo(self, given: DnsWanted) -> None:
        """Also of what was never there. Raises DnsError."""
        try:
            run("resolvconf", "-d", _entry(given))
        except DnsError as error:
            # openresolv says so, Debian's resolvconf does not mind.
            if _GONE not in str(error):
                raise


def _entry(wanted: DnsWanted) -> str:
    return f"{wanted.link}.netagent"
