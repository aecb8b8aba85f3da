"""The process of one run, see :mod:`.run_study`."""

from .run_study import main

if __name__ == "__main__":
    main()
