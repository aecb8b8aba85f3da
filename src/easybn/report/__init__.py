"""One self-contained HTML page about a folder of runs, made from rows alone: :func:`.page.report`."""
