"""A throw-away Django site that has the app and the admin: `django_site.set_up()`."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings

SETTINGS: dict[str, Any] = {
    "SECRET_KEY": "of-a-site-that-only-tests-see",
    "ALLOWED_HOSTS": ["127.0.0.1", "localhost", "testserver"],
    "INSTALLED_APPS": [
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
        "django.contrib.staticfiles",
        "tinytroupe.contrib.django",
    ],
    "MIDDLEWARE": [
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    "ROOT_URLCONF": "django_urls",
    "TEMPLATES": [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    "STATIC_URL": "/static/",
    "USE_TZ": True,
    # One round instead of a million: hundreds of tests log in.
    "PASSWORD_HASHERS": ["django.contrib.auth.hashers.MD5PasswordHasher"],
    # What other tests of the process see of logging is not Django's to set.
    "LOGGING_CONFIG": None,
}
"""No database: a test without the fixture `database` that reaches for one is told so by Django."""


def set_up(**further: Any) -> None:
    """Makes this process the site; does nothing where it already is.

    Args:
        further: Settings of Django, over `SETTINGS`.
    """
    if not settings.configured:
        settings.configure(**{**SETTINGS, **further})
        django.setup()
