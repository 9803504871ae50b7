"""What comparisons, sweeps and evaluations found: tables, figures and the HTML report."""
