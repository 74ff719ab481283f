"""A real browser, and the site that it looks at, for every `test_django_*.py`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from django.conf import settings
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.test import Client
from django.test.testcases import LiveServerThread
from django_fixtures import Database
from lacking import skip_unless_ci
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

Found = TypeVar("Found")

# A browser of the tests speaks to nobody but the site: no other name leads anywhere.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--disable-features=AutofillServerCommunication,OptimizationHints,MediaRouter,Translate",
    "--metrics-recording-only",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--window-size=1280,900",
)


def log_in(chrome: Chrome, address: str, user: Any) -> None:
    """Makes the browser one that a user has logged in with; the page it shows stays as it is."""
    client = Client()
    client.force_login(user)
    cookie = {"name": settings.SESSION_COOKIE_NAME, "url": address, "httpOnly": True}
    value = client.cookies[settings.SESSION_COOKIE_NAME].value
    chrome.execute_cdp_cmd("Network.setCookie", {**cookie, "value": value})


def wait_until(chrome: Chrome, look: Callable[[Chrome], Found], seconds: float = 15) -> Found:
    """Looks until what is seen is true, and returns it; pages may change in the meantime."""
    changing = (NoSuchElementException, StaleElementReferenceException)
    return WebDriverWait(chrome, seconds, 0.05, changing).until(look)


@pytest.fixture(scope="session")
def _browser_of_the_process() -> Iterator[Chrome]:
    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    for name, path in found.items():
        if path is None:
            skip_unless_ci(
                f"{name} is not on the PATH (Debian's packages are chromium and chromium-driver)"
            )
    with TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as folder:
        options = ChromeOptions()
        options.binary_location = str(found["chromium"])
        for flag in (*FLAGS, f"--user-data-dir={folder}"):
            options.add_argument(flag)
        # Or the password manager would ask its maker whether a test's password is known.
        quiet = {
            "credentials_enable_service": False,
            "profile.password_manager_leak_detection": False,
        }
        options.add_experimental_option("prefs", quiet)
        # A driver that is named is not looked for, nor fetched from anywhere.
        service = Service(str(found["chromedriver"]), log_output=str(Path(folder, "driver.log")))
        chrome = Chrome(options=options, service=service)
        try:
            # A click does not wait for the page that it leads to; who looks for an element does.
            chrome.implicitly_wait(10)
            chrome.set_page_load_timeout(30)
            chrome.set_script_timeout(30)
            yield chrome
        finally:
            chrome.quit()


@pytest.fixture
def browser(_browser_of_the_process: Chrome) -> Iterator[Chrome]:
    """A headless Chromium with an empty page, 1280 by 900, that nobody is logged in with."""
    chrome = _browser_of_the_process
    chrome.execute_cdp_cmd("Network.clearBrowserCookies", {})
    yield chrome
    # Requests that a page still makes would meet the next test's database.
    chrome.get("about:blank")


@pytest.fixture
def live_site(database: Database) -> Iterator[str]:
    """The address of the site, served by threads of this process from the test's database."""
    server = LiveServerThread("127.0.0.1", StaticFilesHandler)
    server.daemon = True
    server.start()
    server.is_ready.wait(30)
    if server.error:
        raise server.error
    yield f"http://127.0.0.1:{server.port}"
    server.terminate()
