"""What the shipped networks save as starts of fits, against a dictionary."""

from typing import TYPE_CHECKING

from icobench.reporting.ledger import accounts_of, break_even_table
from icobench.reporting.tables import number

if TYPE_CHECKING:
    from icobench.reporting.run_folder import RunFolder

__all__ = ["starts"]

PAIR = ("network+lm", "dictionary+lm")


def starts(runs: "dict[str, RunFolder]") -> list[str]:
    """A sentence for each test set: simulations and time of both starts, and when the training is repaid.

    Args:
        runs: of `icobench compare`; those without one of the two methods are passed over.
    """
    lines = []
    for name, run in runs.items():
        accounts = {costs.method: costs for costs in accounts_of(run.results, run.run)}
        pair = [accounts[method] for method in PAIR if method in accounts]
        if len(pair) < len(PAIR):
            continue
        texts = [
            f"{costs.method} takes {number(costs.evaluations.mean())} simulations and "
            f"{number(1000 * costs.seconds.mean())} core-ms an image"
            for costs in pair
        ]
        results = run.results[run.results["method"].isin(PAIR)]
        _, rows = break_even_table(results, pair)
        repaid = [
            f"the {number(pair[0].fixed_simulations)} simulations of the training are repaid after "
            f"{by_simulations} images, with the time of training after {by_time}"
            for _, _, by_time, by_simulations, _ in rows
        ]
        lines.append(f"{name or run.test_set}: {'; '.join((*texts, *repaid))}.")
    return lines
