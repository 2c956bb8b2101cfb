"""Prints docs/models.md. ``python -m tests.interp.zoo > docs/models.md``"""

from __future__ import annotations

import torch
import transformers

from tests.interp.zoo.document import document
from tests.interp.zoo.parity import parity
from tests.interp.zoo.zoo import ZOO


def main() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    print(document(parity(entry) for entry in ZOO), end="")


if __name__ == "__main__":
    main()
