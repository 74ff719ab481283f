"""Whom to trust."""

from __future__ import annotations

import ssl
from functools import lru_cache

import httpx2


@lru_cache(maxsize=1)
def load_trust() -> ssl.SSLContext:
    """Returns the certificates that the SDK trusts too; loaded once, since that takes a while.

    `SSL_CERT_FILE` and `SSL_CERT_DIR` are obeyed.
    """
    return httpx2.create_ssl_context()
