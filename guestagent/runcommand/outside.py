"""The way out of the machine, opened when first needed: most scripts need nothing from outside, and a worker may live
for days with whatever it has loaded.
"""

import functools
import logging
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wire.http import HttpClient


class Outside:
    """One HTTP client, and where the metadata service is."""

    @functools.cached_property
    def client(self) -> "HttpClient":
        from guestagent import __version__
        from wire.http import HttpClient

        return HttpClient(f"azvmagent/{__version__}")

    @functools.cached_property
    def imds(self) -> str:
        """Base URL; only managed identities need it."""
        from ipc.errors import IpcError
        from ipc.hostaddress import find_host
        from ipc.places import Places
        from ipc.settings import HostSettings, load_settings

        places = Places.from_environment(os.environ)
        try:
            return find_host(places, load_settings(places, "host", HostSettings, strict=False)).imds
        except IpcError as error:
            logging.getLogger("runcommand").warning("%s", error)
            return HostSettings().imds
