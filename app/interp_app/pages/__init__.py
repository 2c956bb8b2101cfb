"""The pages, each in a file of its own, in the order of the navigation."""

from interp_app.page import Page
from interp_app.pages.compare import COMPARE
from interp_app.pages.flow import FLOW
from interp_app.pages.head import HEAD
from interp_app.pages.overview import OVERVIEW
from interp_app.pages.retrieval import RETRIEVAL
from interp_app.pages.scans import SCANS
from interp_app.pages.text import TEXT

PAGES: tuple[Page, ...] = (OVERVIEW, HEAD, TEXT, FLOW, RETRIEVAL, COMPARE, SCANS)
