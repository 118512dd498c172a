"""Python loads this at start wherever its folder is on PYTHONPATH: engines that fail on demand."""

import os
import sys

if "engine.worker" in sys.orig_argv and "BIBLIOTECA_FAULT" in os.environ:
    from tests.faults.injection import install

    install(os.environ["BIBLIOTECA_FAULT"])
