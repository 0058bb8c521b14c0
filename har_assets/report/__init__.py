"""Pages about a model for people: plots, the HTML report, model cards, test predictions."""
