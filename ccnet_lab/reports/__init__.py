"""Reports: runs and publications as tables: board.py, progress.py (running trainings), logs.py, cards.py; drawing is in draw/."""
