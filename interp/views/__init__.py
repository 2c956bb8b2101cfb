"""What is shown of single heads and texts, each view in a file of its own; whole maps are never built."""

from typing import TYPE_CHECKING

from interp.lazy import lazily

if TYPE_CHECKING:
    from interp.views.head_profile import HeadProfile, head_profile
    from interp.views.map_difference import MapDifference, map_difference
    from interp.views.map_origin import MapTokens
    from interp.views.map_region import MapRegion
    from interp.views.pyramid import Pyramid, view, work
    from interp.views.region import region
    from interp.views.token_links import TokenLinks, token_links
    from interp.views.token_map import TokenMap
    from interp.views.token_view import TokenView, token_view
    from interp.views.top_keys import top_keys

__all__ = [
    "HeadProfile",
    "MapDifference",
    "MapRegion",
    "MapTokens",
    "Pyramid",
    "TokenLinks",
    "TokenMap",
    "TokenView",
    "head_profile",
    "map_difference",
    "region",
    "token_links",
    "token_view",
    "top_keys",
    "view",
    "work",
]

lazily(
    __name__,
    {
        "HeadProfile": "interp.views.head_profile",
        "MapDifference": "interp.views.map_difference",
        "MapRegion": "interp.views.map_region",
        "MapTokens": "interp.views.map_origin",
        "Pyramid": "interp.views.pyramid",
        "TokenLinks": "interp.views.token_links",
        "TokenMap": "interp.views.token_map",
        "TokenView": "interp.views.token_view",
        "head_profile": "interp.views.head_profile",
        "map_difference": "interp.views.map_difference",
        "region": "interp.views.region",
        "token_links": "interp.views.token_links",
        "token_view": "interp.views.token_view",
        "top_keys": "interp.views.top_keys",
        "view": "interp.views.pyramid",
        "work": "interp.views.pyramid",
    },
)
