"""The addresses of the shop."""

from __future__ import annotations

from django.urls import path

from shop.views import chat, home

app_name = "shop"

urlpatterns = [
    path("", home, name="home"),
    path("chats/<int:pk>/", chat, name="chat"),
]
