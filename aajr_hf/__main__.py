"""`python -m aajr_hf` is `aajr`."""

import sys

from .cli.main import main

sys.exit(main())
