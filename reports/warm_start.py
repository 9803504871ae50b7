"""What the shipped networks save as starts of fits, against a dictionary.

    icobench compare --preset laptop --methods network,dictionary+lm,network+simplex,network+lm \\
        --run reports/warm_start
"""

from pathlib import Path

from icobench.reporting.ledger import accounts_of, break_even_table
from icobench.reporting.run_folder import read_runs
from icobench.reporting.tables import number, summary_markdown, summary_table

__all__ = ["starts_text"]


def starts_text(folder: Path) -> str:
    """Markdown: simulations and time of both starts on every test set, and when the training is repaid.

    Args:
        folder: of a run that has the methods network+lm and dictionary+lm.
    """
    runs = read_runs(folder) if folder.is_dir() else {}
    lines, tables = [], []
    for name, run in runs.items():
        accounts = {costs.method: costs for costs in accounts_of(run.results, run.run)}
        pair = [accounts[method] for method in ("network+lm", "dictionary+lm") if method in accounts]
        if len(pair) < 2:
            continue
        texts = [
            f"{costs.method} takes {number(float(costs.evaluations.mean()))} simulations and "
            f"{number(1000 * float(costs.seconds.mean()))} core-ms an image"
            for costs in pair
        ]
        results = run.results[run.results["method"].isin([costs.method for costs in pair])]
        _, rows = break_even_table(results, pair)
        repaid = [
            f"the network's {number(pair[0].fixed_simulations)} simulations for training are repaid after "
            f"{by_simulations} images, its time after {by_time}"
            for _, _, by_time, by_simulations, _ in rows
        ]
        lines.append(f"- {name}: {'; '.join((*texts, *repaid))}.")
        tables.append(
            f"{name}, {run.count} images:\n\n{summary_markdown(summary_table(run.results)).strip()}"
        )
    if not lines:
        return "The run is still owed."
    return "\n\n".join(
        (
            "The shipped networks beside 1,000 stored patterns, on the images of the comparison above, in "
            "one run (`warm_start`; 95 % intervals in parentheses):",
            "\n".join(lines),
            *tables,
        )
    )
