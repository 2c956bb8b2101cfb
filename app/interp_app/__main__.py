"""``python -m interp_app`` is ``interp app``."""

import sys

from interp.cli import main

main(["app", *sys.argv[1:]])
