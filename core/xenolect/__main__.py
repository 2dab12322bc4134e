"""``python -m xenolect``."""

from __future__ import annotations

from xenolect.cli import main

main()
