"""resolvconf(8), openresolv's or Debian's: one entry of ours beside those of others."""

from netagent.dns.program import run
from netagent.dns.wanted import DnsWanted, Old


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
        # -f: what is not there is gone already; Debian's other resolvconf does not know the option and does not mind.
        run("resolvconf", "-f", "-d", _entry(given))


def _entry(wanted: DnsWanted) -> str:
    return f"{wanted.link}.netagent"
