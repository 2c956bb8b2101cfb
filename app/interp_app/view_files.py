"""Scripts and styles of ``interp`` as files of the server: the dashboard mounts the very widget that notebooks hold, and draws
figures with the script that reports carry."""

from __future__ import annotations

from dash import Dash
from flask import Response, request
from werkzeug.wrappers import Response as Answer

PATH = "/interp-views/"
PLOTLY = PATH + "plotly.js"
"""Named by the page before all else, see ``interp_app.server``."""


def serve_views(app: Dash) -> None:
    """Scripts and styles of the token view and of passages, and Plotly, loaded by every page.

    They are files, since the pages allow no inline scripts.
    """
    from interp.dossiers import html as passages
    from interp.plots.script import plotly_script
    from interp.views import token_html

    def add(name: str, mimetype: str, content: str) -> str:
        def answer() -> Answer:
            response = Response(content, mimetype=mimetype)
            response.add_etag()
            # Asked after each time: another version of the server is another file under the same name.
            response.cache_control.no_cache = True
            response.make_conditional(request)
            return response

        path = app.get_relative_path(PATH + name)
        app.server.add_url_rule(path, endpoint=path, view_func=answer)
        return path

    add("plotly.js", "text/javascript", plotly_script())
    for name, of in (("token_view", token_html), ("passages", passages)):
        app.config.external_scripts.append({"src": add(f"{name}.js", "text/javascript", of.script())})
        app.config.external_stylesheets.append(add(f"{name}.css", "text/css", of.style()))
