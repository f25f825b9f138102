"""What an A/B experiment found, from exported exposures and events."""
