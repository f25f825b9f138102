"""How log lines look: one JSON object each, on standard error, with the request's id."""

import logging
import sys

import structlog

from service.current_request import name_request


def _drop_colours(
    _: object, __: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    line.pop("color_message", None)  # uvicorn's second copy of its text
    return line


def configure_logging(level: str) -> None:
    """Send our own and all libraries' lines through one format. Changes the whole process."""
    shared: list[structlog.typing.Processor] = [
        name_request,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _drop_colours,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in ("uvicorn", "uvicorn.error"):  # else they format their lines on their own
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
