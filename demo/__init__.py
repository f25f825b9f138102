"""The whole path on one machine, with a generated world."""
