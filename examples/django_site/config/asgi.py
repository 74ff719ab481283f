"""The site for ASGI servers, such as uvicorn.

Everything works under these, but an answer arrives as a whole: Django collects what a synchronous
view streams. To stream here, let the view be asynchronous and read `astream_user_message`.
"""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

application = get_asgi_application()
