"""The site that other tests of the app build on: what they may rely on."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import sync_to_async
from browser import log_in, wait_until
from django.contrib.auth.models import Permission, User
from django.contrib.staticfiles import finders
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, connections
from django_fixtures import use_database
from selenium.webdriver.common.by import By

IN_CHILD = """
from django.conf import settings
from django.contrib.auth.models import User

User.objects.create(username="lisa")
print(User.objects.count(), settings.LLM_WRAPPER_SEED, settings.LLM_CONFIGS_PATH)
"""


def count_users_in(database):
    assert connection.vendor == database.kind
    return User.objects.count()


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_begins_with_the_same_empty_tables(database, turn):
    """What a test wrote is gone in the next, ids begin anew, and what migrations fill is there."""
    assert User.objects.count() == 0
    assert Permission.objects.filter(content_type__app_label="llm_wrapper").exists()
    assert User.objects.create(username="lisa").pk == 1


def test_threads_and_tasks_meet_the_same_database(database):
    """Threads that a test starts, and those that Django starts for a task, see what it wrote."""
    User.objects.create(username="lisa")

    async def count():
        return await sync_to_async(count_users_in)(database), await User.objects.acount()

    with ThreadPoolExecutor(4) as pool:
        counted = list(pool.map(count_users_in, [database] * 8))
    assert [*counted, *asyncio.run(count())] == [1] * 10


def test_a_connection_of_a_test_does_not_outlive_it(database, make_database):
    """A thread that stays on after a test has lost its connection, and gets no other."""
    connected, test_over = threading.Event(), threading.Event()

    def stay():
        own = connections["default"]
        own.ensure_connection()
        connected.set()
        test_over.wait(30)
        with pytest.raises(ImproperlyConfigured):
            User.objects.count()
        return own.connection

    with ThreadPoolExecutor(1) as pool:
        with use_database(make_database(database.kind)):
            staying = pool.submit(stay)
            assert connected.wait(30)
        test_over.set()
        assert staying.result(30) is None


def test_a_test_without_the_fixture_has_no_database():
    """Who forgets the fixture is told by Django that there is no database."""
    with pytest.raises(ImproperlyConfigured, match="DATABASES"):
        User.objects.count()


def test_a_process_of_its_own_is_the_same_site(
    database, site_settings, configs_folder, start_site_process
):
    """A child process has the test's database and its settings."""
    site_settings(LLM_WRAPPER_SEED=4)
    said, complaint = start_site_process(IN_CHILD).communicate(timeout=60)
    assert said == f"1 4 {configs_folder}\n", complaint
    assert User.objects.get().username == "lisa"


@pytest.mark.smoke
def test_the_pages_and_scripts_of_the_app_come_along():
    """Django finds the app's static files beside its code, and no file of the app is lacking."""
    assert finders.find("llm_wrapper/json.css") is not None


def test_a_browser_meets_the_site_and_nothing_else(live_site, browser):
    """The browser shows pages from the test's database; no other address leads anywhere."""
    log_in(browser, live_site, User.objects.create_superuser("lisa"))
    browser.get(f"{live_site}/admin/")
    assert "LISA" in wait_until(browser, lambda page: page.find_element(By.ID, "user-tools").text)
    assert browser.get_window_size() == {"width": 1280, "height": 900}
    script = "return fetch('http://example.com/').then(() => 'reached', () => 'refused')"
    browser.get(f"{live_site}/static/admin/css/base.css")
    assert browser.execute_script(script) == "refused"


def test_nothing_is_left_of_django_in_the_logs():
    """Setting the site up leaves logging to the tests: Django's own handlers are not there."""
    assert logging.getLogger("django").handlers == []
