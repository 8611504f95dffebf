"""Final answers: find the one a response states, and say whether it equals the gold one.

`statements` finds what a text states as its answer, `notation` reads numbers and words in it, `comparison` decides;
what needs algebra goes to math-verify in the processes of `workers`, which can be killed.
"""

from .comparison import AnswerComparer, Gold, Verdict, final_answer, read_gold

__all__ = ["AnswerComparer", "Gold", "Verdict", "final_answer", "read_gold"]
