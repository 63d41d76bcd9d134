"""`python -m core.cli`, which is how a command starts another one in a process of its own."""

import sys

from . import main

sys.exit(main())
