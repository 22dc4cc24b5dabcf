"""`python -m shadowflow.cli`, where the command is not on the path."""

import sys

from shadowflow.cli import main

sys.exit(main())
