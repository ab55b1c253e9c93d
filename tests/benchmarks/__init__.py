"""How fast the happy paths are, beside a bare wrapper and beside the rivals: `make bench`.

All figures are ratios. The contenders of a row take turns in one process, a lap of about a millisecond each, and every
lap is compared with the baseline's lap of the same round: what disturbs the machine disturbs both. Printed are the
median of these ratios and their middle half. Laps count processor time of the measuring thread, with the garbage
collector off, so that a busy machine is not held against anybody; imports count that of a fresh process.

The blocking baseline is `def w(*a, **k): return f(*a, **k)`, the asyncio one `async def w(*a, **k): return await
f(*a, **k)`. Coroutines are awaited back to back inside one running event loop, so that neither the loop nor a task is
part of the figure.

The table is data: see `rows.py`. `python -m tests.benchmarks retry` measures the rows whose title has that word in it.
"""
