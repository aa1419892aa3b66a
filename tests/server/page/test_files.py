"""What the page is served with, and what its files never do."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from elm_mlx.server.page.routes import FILES, PATHS

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", FILES)
def test_every_file_comes_with_the_headers_that_keep_others_out(url: str, name: str) -> None:
    response = httpx.get(url + PATHS[name])
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert not re.search(r"unsafe|\*|data:|https?:", policy)
    for wanted in ("connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"):
        assert wanted in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cross-origin-opener-policy"] == "same-origin"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_file_that_the_browser_has_is_not_sent_again(url: str) -> None:
    tag = httpx.get(url).headers["etag"]
    assert httpx.get(url, headers={"If-None-Match": tag}).status_code == 304
    assert httpx.get(url, headers={"If-None-Match": '"another"'}).status_code == 200


def test_every_file_of_the_page_is_served_and_none_beside() -> None:
    folder = ROOT / "elm_mlx" / "server" / "page"
    assert sorted(FILES) == sorted(path.name for path in folder.iterdir() if path.suffix not in (".py", ""))


def test_no_file_turns_text_into_markup_or_asks_elsewhere() -> None:
    for name in FILES:
        text = (ROOT / "elm_mlx" / "server" / "page" / name).read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|DOMParser", text)
        assert not re.search(r"""(src|href)="(?!page/)|@import|url\(""", text), name
