"""Final answers: find the answer that a response states, and decide whether it equals the gold answer.

`statements` finds the answers that a text states, `numerals` and `words` read them, `comparison` decides.
Comparisons that need algebra go to math-verify, in the killable processes of `workers`.
"""

from .comparison import AnswerComparer, Gold, Judgement, final_answer, is_gold, read_gold

__all__ = ["AnswerComparer", "Gold", "Judgement", "final_answer", "is_gold", "read_gold"]
