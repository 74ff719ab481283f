"""Shows the site on this machine: with a database that is thrown away, and without a model or key.

A rehearsal server answers, over real HTTP. The site is at http://127.0.0.1:8000, or at another
port where that one is taken, until Ctrl-C. With --check nobody has to look: one message is sent
through the chat page, what comes of it is printed, and everything ends; with an error, if the
answer was not streamed and stored.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPResponse
from http.cookiejar import CookieJar
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, ProxyHandler, Request, build_opener

SITE = Path(__file__).resolve().parent
FOLDER = Path(".demo/django").resolve()
USER = "admin"
USUAL_PORT = 8000
# Words come as from a model, so that one sees them come.
REHEARSAL = ("--latency", "0.3", "--pace", "0.06")
END_SECONDS = 30
CHECK_SECONDS = 60
QUESTION = "Where is my order T-1042?"


def main() -> int:
    """Runs the demonstration; 0 when it was ended, or when its check found nothing wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="send one message, and end")
    parser.add_argument("--port", type=int, help=f"0 picks a free one (default: {USUAL_PORT})")
    args = parser.parse_args()
    # Whoever ends this must not leave its servers behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    password = secrets.token_urlsafe(9)
    try:
        with serve_rehearsal(FOLDER, *REHEARSAL) as (rehearsal, rehearsed):
            environment = make_environment(FOLDER, f"{rehearsal}/v1")
            prepare_site(environment, password)
            port = choose_port() if args.port is None else args.port
            with serve_site(environment, FOLDER, port) as (site, served):
                tell(site, password, rehearsal)
                return check_site(site, password) if args.check else wait((served, rehearsed))
    except KeyboardInterrupt:
        print("\nEnded; both servers are stopped.")
        return 0


def make_environment(folder: Path, base_url: str) -> dict[str, str]:
    """Returns the variables of a site that keeps its data in a folder and asks an endpoint."""
    # A proxy could not reach this machine's own addresses.
    direct = ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1")))
    return {
        **os.environ,
        "NO_PROXY": direct,
        "no_proxy": direct,
        "PYTHONUNBUFFERED": "1",
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DJANGO_DEBUG": "1",
        "DJANGO_SECRET_KEY": secrets.token_urlsafe(50),
        "DJANGO_ALLOWED_HOSTS": "127.0.0.1",
        "SHOP_DATA_DIR": str(folder),
        "REHEARSAL_URL": base_url,
    }


def prepare_site(environment: Mapping[str, str], password: str) -> None:
    """Makes the tables, an administrator who is a customer as well, and what he needs."""
    manage(environment, "migrate", "--verbosity", "0")
    make_administrator(environment, USER, password)
    manage(environment, "load_demo", "--customer", USER)


def make_administrator(environment: Mapping[str, str], name: str, password: str) -> None:
    """Makes a user who may do everything."""
    with_password = {**environment, "DJANGO_SUPERUSER_PASSWORD": password}
    named = ("--username", name, "--email", f"{name}@example.org")
    manage(with_password, "createsuperuser", "--noinput", *named)


def manage(environment: Mapping[str, str], *words: str) -> str:
    """Runs a command of Django's and returns what it prints."""
    command = [sys.executable, str(SITE / "manage.py"), *words]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise SystemExit(f"manage.py {words[0]} failed:\n{ended.stdout}{ended.stderr}")
    return ended.stdout


Served = tuple[str, "subprocess.Popen[str]"]


@contextmanager
def serve_rehearsal(folder: Path, *options: str) -> Iterator[Served]:
    """Runs a rehearsal server; yields its address and its process."""
    words = ["-m", "tinytroupe", "rehearse-server", "--port", "0", "--quiet", "--exit-with-parent"]
    with start([*words, *options], os.environ, folder / "rehearsal.log") as served:
        yield served


@contextmanager
def serve_site(environment: Mapping[str, str], folder: Path, port: int) -> Iterator[Served]:
    """Runs the site under Django's own server; yields its address and its process."""
    words = [str(SITE / "manage.py"), "runserver", "--noreload", f"127.0.0.1:{port}"]
    with start(words, environment, folder / "site.log") as (address, process):
        yield address.rstrip("/"), process


@contextmanager
def start(words: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[Served]:
    """Runs a Python program that prints its address, for as long as it is needed."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, *words],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # Ctrl-C is for this program alone, which then ends the others in order.
            start_new_session=True,
        )
    try:
        assert process.stdout is not None
        yield read_address(process.stdout, log), process
    finally:
        process.terminate()
        process.communicate(timeout=END_SECONDS)


def read_address(output: IO[str], log: Path) -> str:
    """Returns the first address that a program prints."""
    for line in output:
        found = re.search(r"http://[\w.:]+", line)
        if found is not None:
            return found[0]
    raise SystemExit(f"A server did not start:\n{log.read_text(encoding='utf-8')}")


def choose_port() -> int:
    """Returns the usual port, or 0 where somebody else has it."""
    with socket.socket() as probe:
        # As the server does, or a port that was in use a minute ago would look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", USUAL_PORT))
        except OSError:
            return 0
    return USUAL_PORT


def tell(site: str, password: str, rehearsal: str) -> None:
    """Prints where the site is and how to get in."""
    print(
        f"""
The chat page:   {site}/
The admin:       {site}/admin/
Login:           {USER}
Password:        {password}

No model answers but the rehearsal server at {rehearsal}: over real HTTP, in words
that are REHEARSED. They show how messages travel, not what a model would say.
Database, kept answers and logs are in {FOLDER}; the next demonstration begins anew.
Ctrl-C ends it.
""",
        flush=True,
    )


def wait(processes: Sequence[subprocess.Popen[str]]) -> int:
    """Waits until somebody interrupts, or a server ends by itself, which is an error."""
    while all(process.poll() is None for process in processes):
        time.sleep(0.2)
    print(f"A server ended by itself; its log is in {FOLDER}", file=sys.stderr)
    return 1


class Visitor:
    """Somebody who uses the site without a browser; forms are sent as a browser sends them."""

    def __init__(self, site: str) -> None:
        self._site = site
        # Without the proxies of the environment.
        self._opener = build_opener(ProxyHandler({}), HTTPCookieProcessor(CookieJar()))
        self.page = ""
        """The last page."""
        self.path = ""
        """Where it was found, after redirections."""
        self.status = 0
        """The status of what was asked for last."""

    def open(self, path: str) -> None:
        """Opens a page."""
        self._read(Request(self._site + path))

    def send(self, path: str, **fields: str) -> None:
        """Sends a form of the page and opens the page that this leads to."""
        self._read(self._make_form(path, fields))

    def stream(self, path: str, **fields: str) -> Iterator[dict[str, object]]:
        """Sends a form of the page as its script does; yields the lines as they come."""
        request = self._make_form(path, fields)
        request.add_header("Accept", "application/x-ndjson")
        with self._ask(request) as response:
            for line in response:
                yield json.loads(line)

    def find(self, pattern: str) -> str:
        """Returns the first group of what is found in the page."""
        found = re.search(pattern, self.page)
        if found is None:
            raise SystemExit(f"The page {self.path} does not have what was expected: {pattern}")
        return html.unescape(found[1])

    def _make_form(self, path: str, fields: Mapping[str, str]) -> Request:
        token = self.find(r'name="csrfmiddlewaretoken" value="([^"]+)"')
        body = urlencode({**fields, "csrfmiddlewaretoken": token})
        return Request(self._site + path, data=body.encode())

    def _read(self, request: Request) -> None:
        with self._ask(request) as response:
            self.page = response.read().decode()
            self.path = response.url.removeprefix(self._site)

    def _ask(self, request: Request) -> HTTPResponse | HTTPError:
        response: HTTPResponse | HTTPError
        try:
            response = self._opener.open(request, timeout=CHECK_SECONDS)
        except HTTPError as error:
            response = error
        self.status = response.status or 0
        return response


def check_site(site: str, password: str) -> int:
    """Sends one message through the chat page; 0 when its answer was streamed and stored."""
    visitor = Visitor(site)
    visitor.open("/login/")
    visitor.send("/login/", username=USER, password=password)
    print(f"Signed in as {USER}, and led to {visitor.path}")
    chosen = visitor.find(r'value="(\d+)"[^>]*>Orders and delivery<')
    visitor.send("/", prompt_template=chosen)
    chat = visitor.path
    print(f"Began the chat {chat}\n\nSent:      {QUESTION}")
    pieces, times = [], []
    last: dict[str, object] = {}
    for last in visitor.stream(chat, message=QUESTION):
        if "piece" in last:
            pieces.append(str(last["piece"]))
            times.append(time.monotonic())
    answer = "".join(pieces)
    print(f"Answered:  {answer or last}\n")
    visitor.open(chat)
    texts = [html.unescape(text) for text in re.findall(r'class="text">([^<]+)<', visitor.page)]
    took = times[-1] - times[0] if times else 0.0
    return report(
        {
            f"Streamed, {len(pieces)} pieces in {took:.1f} seconds": len(pieces) > 2 and took > 0.1,
            "Whole, as its last line says": last == {"done": True},
            "Stored, as the page shows it now": texts[-2:] == [QUESTION, answer],
            "Looked up with a tool": "<code>find_order</code>" in visitor.page,
            "The admin lets the login in": is_open(visitor, "/admin/llm_wrapper/chathistory/"),
        }
    )


def is_open(visitor: Visitor, path: str) -> bool:
    """Tells whether a page can be seen."""
    visitor.open(path)
    return visitor.path == path and visitor.status == 200


def report(findings: Mapping[str, bool]) -> int:
    """Prints what was seen; 0 when all of it is well."""
    for finding, is_so in findings.items():
        print(f"{finding + ':':45}{'yes' if is_so else 'NO'}")
    return 0 if all(findings.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
