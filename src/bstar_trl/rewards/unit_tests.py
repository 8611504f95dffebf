"""`UnitTests`: does the program in a response pass its row's tests?"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm.auto import tqdm

from ..errors import ConfigurationError, DatasetError
from ..sandbox import Check, Executor, Limits, LocalSandbox, Verdict
from .base import RewardFn, Score
from .programs import COLUMNS, check_of_row

NO_TESTS = Verdict(False, "bad tests", "the row has none")


class UnitTests(RewardFn):
    """1 where the program in a response passes every test of its row, else 0, with a reason: a verifier.

    The program is the block of the response that defines what the tests use, or that reads standard input
    (`programs.extract_code`). It runs in a sandbox, the tests in another; what passes between the two stands in
    docs/sandbox.md. Rows come in these shapes; the first whose columns are filled counts:

    - MBPP, AceCode: `tests`, `test_list` or `test_cases` (a list of statements, perhaps as JSON) and `setup`,
      `test_setup_code` or `test_imports`, run in the order program, setup, tests;
    - HumanEval, LeetCodeDataset: `prompt`, `test`, which defines `check(candidate)`, and `entry_point` (a function, or
      `Solution().method`); the response is the body of the function, or the whole function;
    - KodCode: `test` or `test_code`, written for pytest or unittest, which may import the program from `solution`;
    - APPS, TACO: `inputs` and `outputs` for standard input and output, or with `fn_name` for calls of that function or
      of a method of `Solution`; or all of them as JSON in `input_output`;
    - LiveCodeBench: `public_test_cases`, `private_test_cases` (packed or not), `test_cases` or `input_output`, each a
      list of objects with `input`, `output` and `testtype` (`stdin` or `functional`), perhaps as JSON; the function's
      name stands in `metadata` (`func_name`) or in `starter_code`.

    The code in the prompt of the first three, or in `starter_code`, begins the program if the response is a body. Of
    APPS and LiveCodeBench, and of tests that use `Solution`, programs know what those harnesses import
    (`cases.STARTER`); other programs import what they need.

    A row whose functions change their arguments has the column `in_place`. Without that column, tests that call the
    program by statements alone say the same. A row gets `None`, *cannot be judged*, where its tests do not compile,
    pass objects of their own classes to the program, or need what the sandbox does not have; and where it has none, as
    the rows of other tasks in a mixture.

    Args:
        name (`str`, *optional*): what logs call it.
        timeout (`float`): seconds for one response with all its tests.
        memory_mb (`int`): MiB for one response's processes together.
        workers (`int`, *optional*): responses checked at once, per training process; None: one for each core.
        strict (`bool`): refuse to run where this machine lacks a layer of the isolation, instead of warning once.
        executor (`Executor`, *optional*): where programs run instead of this machine, for example a `RemoteSandbox`.
        progress (`bool`): show a progress bar, where there is a terminal.
    """

    is_verifier = True

    def __init__(
        self,
        *,
        name: str | None = None,
        timeout: float = 5.0,
        memory_mb: int = 512,
        workers: int | None = None,
        strict: bool = False,
        executor: Executor | None = None,
        progress: bool = True,
    ):
        super().__init__(name)
        if executor is not None and not callable(getattr(executor, "run", None)):
            raise ConfigurationError(
                f"executor must have the methods run(check, limits) and close(), got {type(executor).__name__}"
            )
        if executor is not None and strict:
            raise ConfigurationError("strict=True is about this machine's sandbox; it says nothing of an executor")
        self._limits = Limits(timeout=timeout, memory_mb=memory_mb)
        local = LocalSandbox(workers, strict=strict)
        self._executor: Executor = executor or local
        self._workers = local.workers
        self._progress = progress

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Refuse a row without any of the columns, or with values that have none of the shapes."""
        tests = {column: row[column] for column in COLUMNS if column in row}
        if not tests:
            raise DatasetError(
                f"reward '{self.name}' needs columns with tests, such as 'tests' (MBPP), 'test' and 'entry_point' "
                f"(HumanEval) or 'inputs' and 'outputs' (APPS), but the dataset has {', '.join(row)}"
            )
        if any(tests.values()):
            check_of_row(row["prompt"], "pass", tests, self.name)

    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[Score]:
        """One score per completion: 1, 0 or `None`, and why. Equal programs for equal tests are run once.

        Raises:
            DatasetError: a row has none of these shapes.
            SandboxError: programs cannot be run here.
        """
        checks: list[Check | Verdict | None] = []
        for place, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            row = {column: columns[column][place] for column in COLUMNS if column in columns}
            is_mine = any(row.values()) or not row
            checks.append(check_of_row(prompt, completion, row, self.name) if is_mine else NO_TESTS)
        verdicts = self._run([check for check in dict.fromkeys(checks) if isinstance(check, Check)])
        found = [verdicts[check] if isinstance(check, Check) else check for check in checks]
        return [Score(0.0, "no code") if verdict is None else _score(verdict) for verdict in found]

    def close(self) -> None:
        """End the sandboxes. The next call starts new ones."""
        self._executor.close()

    def _run(self, checks: Sequence[Check]) -> dict[Check, Verdict]:
        verdicts: dict[Check, Verdict] = {}
        waiting = deque(checks)
        bar = tqdm(total=len(checks), desc=self.name, leave=False, disable=None if self._progress else True)

        def work() -> None:
            while True:
                try:
                    check = waiting.popleft()
                except IndexError:
                    return
                verdicts[check] = self._executor.run(check, self._limits)
                bar.update()

        with bar, ThreadPoolExecutor(self._workers, thread_name_prefix="bstar-unit-tests") as threads:
            try:
                for future in [threads.submit(work) for _ in range(min(self._workers, len(checks)))]:
                    future.result()
            finally:
                waiting.clear()  # after an error, or a Ctrl-C, no thread takes another check
        return verdicts


def _score(verdict: Verdict) -> Score:
    reason = f"{verdict.reason}: {verdict.detail}" if verdict.detail else verdict.reason
    return Score(None if verdict.reason == "bad tests" else float(verdict.passed), reason)
