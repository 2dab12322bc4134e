"""xenolect: EmergenceManager for Python."""
