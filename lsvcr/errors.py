"""The errors raised on purpose.

LsvcrError
├── DataError      a dataset folder or its source cannot be used as it is
└── BundleError    a bundle's files, dimensions or golden outputs disagree
"""


class LsvcrError(Exception):
    """Root of all errors raised on purpose; its text is meant for the person at the keyboard."""


class DataError(LsvcrError):
    """A dataset folder, or the source it is made from, cannot be used as it is."""


class BundleError(LsvcrError):
    """A bundle is damaged, incomplete, or disagrees with itself."""
