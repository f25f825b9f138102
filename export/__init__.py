"""From a checkpoint to a published bundle."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as in `service`
