"""What training and serving must agree on: catalogue, histories, bundle, metrics."""

__version__ = "0.1.0"
