"""What training and serving must agree on: catalogue, histories, bundle, metrics."""
