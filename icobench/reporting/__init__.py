"""What a comparison found, for people to read: tables, figures and the HTML report of a run."""
