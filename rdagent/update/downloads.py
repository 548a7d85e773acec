"""Fetching a package and its layers: from the repository if it has them, else by the URLs of the host's manifest."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from ipc.places import Places
from rdagent.update.fetch import fetch_by_url, layer_url
from rdagent.update.offers import Offer
from rdagent.update.repository import Repository
from rdagent.update.source import SourceError, layer_target
from release.manifest import BYTES_LIMIT, Layer
from wire.deadline import Deadline
from wire.http import HttpClient

_SECONDS = 900.0


class Downloads:
    """Nothing that arrives here is trusted."""

    def __init__(self, repository: str, places: Places, client: HttpClient) -> None:
        """`repository`: base URL; empty if there is none."""
        self._repository = Repository(repository, places) if repository else None
        self._client = client

    async def package(self, offer: Offer, path: Path) -> str:
        """To `path`. Gives the URL it came by; empty: from the repository. Raises SourceError."""
        problem: SourceError | None = None
        if self._repository is not None and offer.target:
            try:
                await self._repository.fetch(offer.target, path)
            except SourceError as error:
                problem = error
            else:
                return ""
        if not offer.urls:
            raise problem or SourceError("missing", "nobody says where it is to be had")
        return await self._by_url(list(offer.urls), path)

    async def layers(self, offer: Offer, wanted: Sequence[Layer], folder: Path, *, by_url: str) -> dict[str, str]:
        """Files in `folder` by SHA-256. `by_url`: how the package came. Raises SourceError."""
        found = {layer.sha256: folder / f"{layer.sha256}.zip" for layer in wanted}
        urls = list(dict.fromkeys([by_url, *offer.urls])) if by_url else list(offer.urls)
        if self._repository is not None and not by_url and found:
            try:
                await self._repository.fetch_all({layer_target(sha256): path for sha256, path in found.items()})
            except SourceError:
                if not urls:
                    raise
            else:
                return {sha256: str(path) for sha256, path in found.items()}
        for sha256, path in found.items():
            await self._by_url([layer_url(url, sha256) for url in urls], path)
        return {sha256: str(path) for sha256, path in found.items()}

    async def _by_url(self, urls: list[str], path: Path) -> str:
        deadline = Deadline.after(_SECONDS)
        return await asyncio.to_thread(fetch_by_url, self._client, urls, path, limit=BYTES_LIMIT, deadline=deadline)
