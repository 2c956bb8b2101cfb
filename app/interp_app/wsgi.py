"""For WSGI servers: ``gunicorn --workers 1 --threads 8 --bind 127.0.0.1:8050 interp_app.wsgi:server``.

One worker, since it owns the models. Settings come from the environment: see ``interp_app.environment``.
"""

from __future__ import annotations

import os

from interp_app.environment import settings_of
from interp_app.server import create_app

server = create_app(settings_of(os.environ)).server
