"""Tables from the rows of runs: of single runs, and over seeds with intervals and paired tests.

Rows are read by :mod:`.rows` and grouped by :mod:`.aggregate`; every table is a :class:`.table.Table`, which
:mod:`.formats` writes for the terminal, as Markdown, LaTeX, CSV and HTML.
"""
