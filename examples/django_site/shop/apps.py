"""What Django is told of the app."""

from __future__ import annotations

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """The app `shop`."""

    name = "shop"
