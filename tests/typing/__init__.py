"""Programs that are never run: mypy and pyright must read them as their authors meant them.

A line that must be refused carries an ignore comment, which both checkers report once it is no longer needed.
"""
