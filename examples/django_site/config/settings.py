"""The settings of the site. What differs from place to place comes from the environment.

| variable | |
|---|---|
| `DJANGO_DEBUG` | 1: on a developer's machine |
| `DJANGO_SECRET_KEY` | needed unless `DJANGO_DEBUG` is 1 |
| `DJANGO_ALLOWED_HOSTS` | names under which the site is reached, with commas between them |
| `SHOP_DATA_DIR` | the folder of the database and of the answers that are kept |
| `REHEARSAL_URL` | where a rehearsal server answers |
"""

from __future__ import annotations

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(os.environ.get("SHOP_DATA_DIR", BASE_DIR)).absolute()

DEBUG = os.environ.get("DJANGO_DEBUG") == "1"
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "known-to-everybody" if DEBUG else "")
if not SECRET_KEY:
    raise ImproperlyConfigured("Set DJANGO_SECRET_KEY, or DJANGO_DEBUG=1 on your own machine.")
ALLOWED_HOSTS = os.environ.get("DJANGO_ALLOWED_HOSTS", "127.0.0.1,localhost").split(",")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = not DEBUG

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "tinytroupe.contrib.django",
    "shop",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"

TEMPLATES = [
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
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA_DIR / "db.sqlite3",
        # Readers and one writer at a time, who waits for his turn instead of failing.
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode = WAL",
        },
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "shop:home"
LOGOUT_REDIRECT_URL = "login"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"

# The models: a file each, whose keys come from the environment. An address that nobody set is that
# at which `tinytroupe rehearse-server` listens by itself.
LLM_CONFIGS_PATH = BASE_DIR / "llm_configs"
os.environ.setdefault("REHEARSAL_URL", "http://127.0.0.1:8765/v1")

# How they are asked. What was answered once is not bought again.
TINYTROUPE = {
    "CACHE_FILE_NAME": DATA_DIR / "answers",
    "TIMEOUT": 60,
    "MAX_ATTEMPTS": 3,
}

# The only module whose functions the admin can make tools of.
LLM_WRAPPER_TOOL_MODULES = ["shop.tools"]
