"""What the tests of the machines let pass: `make mutants`.

mutmut breaks the machines, one small change at a time, and asks their tests about every change. A change that no test
notices either changes nothing that a caller could tell, or shows a law that has no test. It happens in a copy, in a
private folder; `[tool.mutmut]` in pyproject.toml says what is broken and who is asked. `python -m tests.mutants breaker`
breaks one machine only.
"""
