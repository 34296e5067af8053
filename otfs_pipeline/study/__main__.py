"""`python -m otfs_pipeline.study`."""

import signal
import sys

from otfs_pipeline.study.command import main

# An exit ends the processes that were started, too.
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
sys.exit(main())
