"""From a dataset row and a response to what the sandbox checks: a program and its tests.

`source` reads the surface of Python text, `extraction` finds the program in a response, `prompts` the code that a
prompt begins; `cases` and `row_tests` read a row's tests, and `rows` puts all of it together.
"""

from .extraction import extract_code
from .rows import COLUMNS, check_of_row

__all__ = ["COLUMNS", "check_of_row", "extract_code"]
