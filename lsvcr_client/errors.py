"""What the client gives up with."""

from lsvcr_client.answers import Problem


class ClientError(Exception):
    """Root of everything the client raises on purpose."""


class NoAnswerError(ClientError):
    """The service couldn't be reached, or what came back wasn't an answer of it."""


class DeadlineExceededError(ClientError):
    """The time was up before there was an answer; events may have been stored all the same."""


class ProblemError(ClientError):
    """The service refused.

    Attributes:
        problem: Its own words (RFC 9457); `problem.request_id` finds the request in its log.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}")
        self.problem = problem

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status


class SpoolError(ClientError):
    """The file that keeps unsent events can't be read or written, or is full."""
