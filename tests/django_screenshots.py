"""Takes the pictures of the documentation: `python tests/django_screenshots.py`.

The example site is looked at with Chromium. What its model says is written here, since a
rehearsal's words would make no sense in a picture.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from base64 import b64decode
from pathlib import Path
from tempfile import TemporaryDirectory

from browser import FLAGS, wait_until
from chat_server import call_tools
from example_site import PASSWORD, ExampleSite, run_example, stream
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from servers import Wait

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
WIDTH, HEIGHT = 1280, 860
MOST_BYTES = 300_000

CUSTOMER = "Amina"
VARIABLES = {"bought": ["Jasmine tea, 100 g"], "customer_name": "Amina"}
FIRST = "Where is my order T-1042?"
FOUND = (
    "Your jasmine tea is on its way to Italy. You ordered it on 18 May, and the parcel has left us."
)
SECOND = "And how long does that take?"
TAKES = "A parcel to Italy takes 3 to 5 working days."


def main() -> int:
    """Takes them; 0 when each is small enough for a page."""
    IMAGES.mkdir(exist_ok=True)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        with run_example(place, CUSTOMER) as site, open_browser(place / "browser") as chrome:
            site.manage("load_demo", "--customer", CUSTOMER)
            sign_in(chrome, site)
            taken = [show_chat(chrome, site), show_admin(chrome, site)]
    for path in taken:
        print(f"{path}: {path.stat().st_size:,} bytes")
    return 0 if all(path.stat().st_size < MOST_BYTES for path in taken) else 1


def open_browser(folder: Path) -> Chrome:
    """Returns a browser, which a `with` block closes."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={folder}", "--hide-scrollbars"):
        options.add_argument(flag)
    chrome = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    chrome.implicitly_wait(10)
    size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    # Or the cursor of an arriving answer would be seen by chance.
    still = {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", still)
    return chrome


def sign_in(chrome: Chrome, site: ExampleSite) -> None:
    """Signs in as the customer."""
    chrome.get(site.url)
    chrome.find_element(By.NAME, "username").send_keys(CUSTOMER)
    chrome.find_element(By.NAME, "password").send_keys(PASSWORD, Keys.ENTER)
    chrome.find_element(By.CSS_SELECTOR, "main.welcome")


def show_chat(chrome: Chrome, site: ExampleSite) -> Path:
    """Holds a chat about an order, the last answer of which is still arriving."""
    choose = "//select/option[normalize-space()='Orders and delivery']"
    chrome.find_element(By.XPATH, choose).click()
    chrome.find_element(By.CSS_SELECTOR, ".new-chat button").click()
    look_up = call_tools(("find_order", {"order_number": "T-1042"}))
    days = call_tools(("delivery_days", {"country": "Italy"}))
    taken = threading.Event()
    site.endpoint.play(
        stream(look_up), stream(FOUND), stream(days), stream(TAKES, Wait(taken), after=7)
    )
    send(chrome, FIRST)
    wait_until(chrome, lambda page: page.execute_script("return !document.body.ariaBusy"))
    chrome.find_element(By.CSS_SELECTOR, ".step summary").click()
    send(chrome, SECOND)
    wait_until(chrome, lambda page: "takes 3 to" in page.find_element(By.ID, "messages").text)
    path = take(chrome, "django-chat.png", {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT})
    taken.set()
    wait_until(chrome, lambda page: page.execute_script("return !document.body.ariaBusy"))
    return path


def send(chrome: Chrome, message: str) -> None:
    """Writes a message and sends it."""
    chrome.find_element(By.CSS_SELECTOR, ".composer textarea").send_keys(message, Keys.ENTER)


def show_admin(chrome: Chrome, site: ExampleSite) -> Path:
    """Previews a prompt template."""
    chrome.get(f"{site.url}/admin/llm_wrapper/prompttemplate/")
    chrome.find_element(By.ID, "toggle-nav-sidebar").click()
    chrome.find_element(By.LINK_TEXT, "Orders and delivery").click()
    fill(chrome, "id_preview-variables", json.dumps(VARIABLES, indent=2))
    fill(chrome, "id_preview-message", FIRST)
    chrome.find_element(By.ID, "llm-preview-button").click()
    chrome.find_element(By.CSS_SELECTOR, "#llm-preview-result .llm-total")
    # From the templates to what comes of them.
    part = chrome.execute_script(
        "const first = document.getElementById('id_template_format').closest('fieldset');"
        "const last = document.getElementById('llm-preview-result');"
        "const [top, end] = [first.getBoundingClientRect(), last.getBoundingClientRect()];"
        "const scrolled = document.querySelector('.main').scrollTop + scrollY;"
        "const left = top.left - 24;"
        "return {x: left, y: top.top + scrolled - 16, width: innerWidth - left,"
        " height: end.bottom - top.top + 32};"
    )
    return take(chrome, "django-admin.png", part)


def fill(chrome: Chrome, name: str, text: str) -> None:
    """Writes a text in place of the one in a field."""
    field = chrome.find_element(By.ID, name)
    field.clear()
    field.send_keys(text)


def take(chrome: Chrome, name: str, part: dict[str, float]) -> Path:
    """Takes a picture of a part of the page."""
    options = {"clip": {**part, "scale": 1}, "captureBeyondViewport": True}
    taken = chrome.execute_cdp_cmd("Page.captureScreenshot", options)
    path = IMAGES / name
    path.write_bytes(b64decode(taken["data"]))
    return path


if __name__ == "__main__":
    sys.exit(main())
