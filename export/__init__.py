"""From a checkpoint to a published bundle."""
