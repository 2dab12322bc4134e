"""``xenolect demo``: five changes of protocol for a fleet of real MCP clients, none of them breaks it."""
