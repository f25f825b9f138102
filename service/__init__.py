"""Serves a bundle over HTTP."""

import os

from service.one_arena import keep_one_arena

# ONNX Runtime tells its maker about models and machine, from 1.29 on also on Linux, and keeps a
# database, threads and a descriptor for it. It looks when it is imported, so before anything else.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
keep_one_arena()  # as early: libraries start threads when they are imported
