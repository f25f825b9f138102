"""A/B experiments: definitions, assignment, and the record of who was shown what."""
