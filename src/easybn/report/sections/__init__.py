"""The sections of the page, in order; each is a function from all rows to a section."""
