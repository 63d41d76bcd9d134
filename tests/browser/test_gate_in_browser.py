"""Signing in with a browser through a tunnel and behind a proxy, before the real server."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from cli_harness import Cli
from forwarding import forwarding
from harness import Server, Tab, wait_until
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

TabAt = Callable[..., Tab]
PREFIX = "/hub/user/ada"


def code_of(server: Server) -> str:
    """A one-time code, as `saestudio status` gets one."""
    return httpx.post(f"{server.url}api/v1/sign-in", timeout=30, trust_env=False).json()["url"].partition("code=")[2]


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_a_code_opens_a_live_page_on_which_a_click_is_its_persons(server: Server, tab_at: TabAt, prefix: str) -> None:
    inner = urlsplit(server.url).port or 0
    with forwarding(inner, prefix) as port, Cli(Path(server.data_dir)).training("far") as training:
        training.step(1)
        tab = tab_at(f"http://127.0.0.1:{port}{prefix}/?training={training.id}&code={code_of(server)}")
        expect(tab.page.locator(".connection .status")).to_contain_text("live · position", timeout=60_000)
        expect(tab.page).to_have_url(f"http://127.0.0.1:{port}{prefix}/?training={training.id}")
        name = f"saestudio_{inner if prefix else port}"
        (cookie,) = [one for one in tab.page.context.cookies() if one["name"] == name]
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
        assert name not in tab.page.evaluate("document.cookie")
        # The socket lives: what is recorded now arrives without a reload.
        training.log("said just now")
        expect(tab.page.get_by_text("said just now")).to_be_visible(timeout=30_000)
        tab.page.get_by_role("button", name="Pause", exact=True).click()
        path = f"trainings/{training.id}/activity"
        asked = wait_until(
            lambda: [one for one in server.ask(path)["data"] if one["type"] == "PauseRequested"],
            "the click in the activity",
        )
        assert [one["actor"] for one in asked] == [f"user:{pwd.getpwuid(os.geteuid()).pw_name}"]
        # Signed in once, the address alone is enough.
        tab.page.goto(f"http://127.0.0.1:{port}{prefix}/")
        expect(tab.page.locator(".connection .status")).to_contain_text("live · position", timeout=60_000)
        training.complete(2)
        # Before the way to the server ends, which would be one more thing that goes wrong.
        tab.check()
        tab.page.close()


def test_without_a_cookie_and_with_a_used_code_nothing_is_shown(server: Server, tab_at: TabAt) -> None:
    with forwarding(urlsplit(server.url).port or 0, PREFIX) as port:
        own = f"http://127.0.0.1:{port}{PREFIX}/"
        code = code_of(server)
        first = tab_at(f"{own}?code={code}")
        expect(first.page.locator(".connection .status")).to_contain_text("live · position", timeout=60_000)
        for address in (own, f"{own}?code={code}", f"{own}?code=guess"):
            tab = tab_at(address)
            tab.allowed = ["401"]
            expect(tab.page.get_by_role("heading", name="Who are you?")).to_be_visible()
            expect(tab.page.get_by_text(re.compile("sign-in link from saestudio status"))).to_be_visible()
            assert tab.page.context.cookies() == []
            assert tab.page.locator("script, .connection").count() == 0
        first.check()
        first.page.close()
