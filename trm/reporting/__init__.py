"""Reports: HTML page, terminal output, figures."""
