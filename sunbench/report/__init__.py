"""Tables and pages from finished runs."""
