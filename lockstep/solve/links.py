"""Links: pages of links to wheels (`--find-links`), of which one that can't be read is no reason to stop."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from lockstep.servers import Servers, hide, without_userinfo


def unreadable(pages: Sequence[str], servers: Servers) -> dict[str, str]:
    """Return the pages on servers that can't be read, each with the reason; folders aren't asked."""
    remote = [page for page in pages if page.startswith(("https://", "http://"))]
    if not remote:
        return {}
    with servers.client() as client, ThreadPoolExecutor(max_workers=8) as threads:

        def trouble(page: str) -> str | None:
            import httpx

            try:
                with client.stream(
                    "GET", without_userinfo(page), auth=servers.auth(page), timeout=10
                ) as answer:
                    return None if answer.is_success else f"it answers {answer.status_code}"
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                return hide(str(error)) or type(error).__name__

        found = dict(zip(remote, threads.map(trouble, remote), strict=True))
    return {page: reason for page, reason in found.items() if reason}
