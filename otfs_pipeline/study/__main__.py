"""`python -m otfs_pipeline.study`."""

import sys

from otfs_pipeline.study.command import main

sys.exit(main())
