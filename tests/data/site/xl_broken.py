"""A plugin whose driver is not installed."""

import a_driver_nobody_has  # noqa: F401
