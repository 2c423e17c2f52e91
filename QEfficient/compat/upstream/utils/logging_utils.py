"""The library's log under upstream's path."""

import logging

logger = logging.getLogger("QEfficient")
