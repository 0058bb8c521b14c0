"""What people read about a model: plots, the HTML report, model cards, test predictions."""
